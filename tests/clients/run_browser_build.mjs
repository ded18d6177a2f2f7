// Continue texts with the build of transformers.js that browsers load: WebAssembly, and files fetched over HTTP.
import { createReadStream, existsSync, statSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const job = JSON.parse(process.argv[2]);
const root = path.dirname(job.folder);
const server = http.createServer((request, response) => {
  const file = path.join(root, path.normalize(decodeURIComponent(request.url)));
  if (!existsSync(file) || !statSync(file).isFile()) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { 'content-length': statSync(file).size });
  if (request.method === 'HEAD') response.end();
  else createReadStream(file).pipe(response);
});
await new Promise((listening) => server.listen(0, '127.0.0.1', listening));

// The build asks for this name before it takes node's files and node's runtime instead of the browser's.
Object.defineProperty(process, 'release', { value: { name: 'browser' } });
const build = path.resolve('node_modules/@huggingface/transformers/dist/transformers.web.js');
const { AutoModelForCausalLM, AutoTokenizer, env } = await import(pathToFileURL(build));
env.allowLocalModels = false;
env.remoteHost = `http://127.0.0.1:${server.address().port}/`;
env.remotePathTemplate = '{model}/';
env.useBrowserCache = false;
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = undefined; // the ones in the package, not those of a network
env.backends.onnx.wasm.numThreads = 1;

const name = path.basename(job.folder);
const model = await AutoModelForCausalLM.from_pretrained(name);
const tokenizer = await AutoTokenizer.from_pretrained(name);

async function added(texts) {
  const inputs = tokenizer(texts);
  const length = inputs.input_ids.dims[1];
  const output = await model.generate({ ...inputs, max_new_tokens: job.count });
  return output.tolist().map((row) => row.slice(length).map(Number));
}

const answer = { prompts: [], added: [], texts: [], batch: await added(job.batch) };
for (const text of job.prompts) {
  answer.prompts.push(tokenizer.encode(text));
  answer.added.push((await added([text]))[0]);
  answer.texts.push(tokenizer.decode(answer.added.at(-1), { skip_special_tokens: true }));
}
console.log(JSON.stringify(answer));
server.close();
