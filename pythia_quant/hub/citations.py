"""What to cite: the models, and the method of each format."""

from __future__ import annotations

from pythia_quant.core.settings import VariantSettings

_PYTHIA = """\
@misc{biderman2023pythia,
  title  = {Pythia: A Suite for Analyzing Large Language Models Across Training and Scaling},
  author = {Biderman, Stella and Schoelkopf, Hailey and Anthony, Quentin and Bradley, Herbie and O'Brien, Kyle and
            Hallahan, Eric and Khan, Mohammad Aflah and Purohit, Shivanshu and Prashanth, USVSN Sai and Raff, Edward and
            Skowron, Aviya and Sutawika, Lintang and van der Wal, Oskar},
  year   = {2023},
  eprint = {2304.01373},
  archivePrefix = {arXiv}
}"""

_GPTQ = """\
@misc{frantar2022gptq,
  title  = {GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers},
  author = {Frantar, Elias and Ashkboos, Saleh and Hoefler, Torsten and Alistarh, Dan},
  year   = {2022},
  eprint = {2210.17323},
  archivePrefix = {arXiv}
}"""

_QLORA = """\
@misc{dettmers2023qlora,
  title  = {QLoRA: Efficient Finetuning of Quantized LLMs},
  author = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke},
  year   = {2023},
  eprint = {2305.14314},
  archivePrefix = {arXiv}
}"""


def citations(settings: VariantSettings) -> str:
    """Return BibTeX of the models' paper, and of the method's where layers were quantized by one with a paper."""
    method = {"gptq": _GPTQ, "bnb": _QLORA}.get(settings.format, "")
    if settings.takes_codes_of() is not None:
        method = _GPTQ
    return "\n\n".join(filter(None, (_PYTHIA, method)))
