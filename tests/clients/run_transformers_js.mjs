// Continue texts with transformers.js under node. No type is asked for: config.json names the file.
import path from 'node:path';
import { env, pipeline } from '@huggingface/transformers';

const job = JSON.parse(process.argv[2]);
env.allowRemoteModels = false;
env.localModelPath = path.dirname(job.folder);
const generator = await pipeline('text-generation', path.basename(job.folder));
const { model, tokenizer } = generator;
const options = { max_new_tokens: job.count };

async function added(texts) {
  const inputs = tokenizer(texts);
  const length = inputs.input_ids.dims[1];
  const output = await model.generate({ ...inputs, ...options });
  return output.tolist().map((row) => row.slice(length).map(Number));
}

const answer = { prompts: [], added: [], texts: [], batch: await added(job.batch) };
for (const text of job.prompts) {
  answer.prompts.push(tokenizer.encode(text));
  answer.added.push((await added([text]))[0]);
  const [{ generated_text }] = await generator(text, { ...options, return_full_text: false });
  answer.texts.push(generated_text);
}
console.log(JSON.stringify(answer));
