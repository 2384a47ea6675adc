"""What lies beside an exported file for people who have onnxruntime and tokenizers alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from supertickets.export.same import Texts
from supertickets.export.source import Exported

_HEAD = '''"""Runs {file} with onnxruntime and tokenizers: python example.py "a text" "a text<TAB>its second one"."""
import json, pathlib, sys
import numpy, onnxruntime, tokenizers

here = pathlib.Path(__file__).parent
tokenizer = tokenizers.Tokenizer.from_file(str(here / "tokenizer.json"))
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad!r})
tokenizer.enable_truncation({longest})
texts = tokenizer.encode_batch([tuple(text.split("\\t")) if "\\t" in text else text for text in sys.argv[1:]])
inputs = {{{inputs}}}
session = onnxruntime.InferenceSession(here / "{file}")
found = session.run(None, {{name: numpy.array(ids, numpy.int64) for name, ids in inputs.items()}})
'''
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_LABELS = """labels = json.loads((here / "config.json").read_text())["id2label"]
for text, outputs in zip(sys.argv[1:], found[0].tolist()):
    print(json.dumps({"text": text, **{labels[str(i)]: output for i, output in enumerate(outputs)}}))
"""
_PLAIN = """for output, values in zip(session.get_outputs(), found):
    print(json.dumps({output.name: values.tolist()}))
"""


def example(exported: Exported, file: str) -> str:
    """Return a program that runs a file of ONNX on texts and prints what it gives, one JSON object a line."""
    tokenizer = exported.tokenizer
    fields = [name for name in _FIELDS if name in tokenizer.model_input_names]
    inputs = ", ".join(f'"{name}": [one.{_FIELDS[name]} for one in texts]' for name in fields)
    start = _HEAD.format(
        file=file,
        pad_id=tokenizer.pad_token_id,
        pad=tokenizer.pad_token,
        longest=tokenizer.model_max_length,
        inputs=inputs,
    )
    return start + (_LABELS if exported.form == "sequence" else _PLAIN)


def reads_alike(exported: Exported, folder: Path, texts: Texts) -> bool:
    """Return whether the tokenizers library, given a folder's tokenizer.json, reads texts as transformers does."""
    from tokenizers import Tokenizer

    if not (folder / "tokenizer.json").is_file():
        return False
    first, second = texts
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    alone.no_padding()
    alone.enable_truncation(exported.tokenizer.model_max_length)
    expected = exported.tokenizer(first, second, truncation=True, verbose=False)["input_ids"]
    pairs: list[Any] = first if second is None else list(zip(first, second, strict=True))
    return [one.ids for one in alone.encode_batch(pairs)] == expected


def readme(exported: Exported, made: Mapping[str, Any], files: Sequence[str], example: bool) -> str:
    """Return the README of a folder with files of ONNX: what they are, what was compared, how to run them.

    `example`: whether there is an example.py.
    """
    what = re.sub(r"([\\`*_\[\]<>&~$|#])", r"\\\1", exported.what)
    inputs = ", ".join(f"`{name}`" for name in _FIELDS if name in exported.tokenizer.model_input_names)
    lines = [
        f"# {what}, as ONNX",
        "",
        f"`{files[0]}` takes {inputs} of any number of texts of any length, and gives what the model gives in torch: "
        f"the largest difference on texts with padding was {made['largest_difference']:.1g} of the largest output.",
    ]
    lines += [f"`{name}` has weights of 8 bits (onnxruntime's dynamic quantisation)." for name in files[1:]]
    if made.get("dev"):
        lines += ["", "| file | " + " | ".join(made["dev"][files[0]]) + " |"]
        lines += ["|---|" + "---|" * len(made["dev"][files[0]])]
        rows = {name: [f"{value:.4g}" for value in metrics.values()] for name, metrics in made["dev"].items()}
        lines += [f"| {name} | {' | '.join(values)} |" for name, values in rows.items()]
    if example:
        lines += ["", "`pip install onnxruntime tokenizers`, then:", "", "```", 'python example.py "a text"', "```"]
    return "\n".join([*lines, ""])
