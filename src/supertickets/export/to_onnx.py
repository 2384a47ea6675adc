"""Models as ONNX: one file with shapes in its graph, so that a model cut to a ticket needs no code of ours.

torch's exporter writes it (optimum's does not install beside transformers 5), onnxruntime runs and quantises it.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supertickets.errors import StudyError, TicketError, needs
from supertickets.export.formats import in_float32, plain_config
from supertickets.export.reloaded import dev_outputs
from supertickets.export.same import Run, batches_of, check_same, output_names, run_of, texts_for
from supertickets.export.source import Exported
from supertickets.export.standalone import example, readme, reads_alike
from supertickets.models import quiet_transformers
from supertickets.storage import write_atomically
from supertickets.tasks import Task
from supertickets.tasks.metrics import evaluate
from supertickets.training.devices import undisturbed
from supertickets.training.objectives import Sequences, objective_of

MODEL, INT8 = "model.onnx", "model.int8.onnx"
_ONE_FILE = 1_900_000_000
"""A file of ONNX has at most 2 GB; the weights of larger models go beside it."""
_DEV_AT_ONCE = 32


def write_onnx(exported: Exported, folder: Path, int8: bool = False) -> dict[str, Any]:
    """Write a model as ONNX with its tokenizer, config.json (labels) and an example that runs it.

    Batch and length are free; the output layer is in it. `int8` adds a file with weights of 8 bits, and says how both
    do on the task's dev set. Raises TicketError for decoders and where a package is missing, StudyError if the
    exporter fails, or if onnxruntime does not compute what torch does (see `same.check_same`).
    """
    needs("onnx", "--to onnx")
    family = exported.family
    if family.causal or family.decoder is not None:
        raise TicketError(
            f"--to onnx: {exported.what} is a decoder ({exported.model.config.model_type}); encoders such as BERT are "
            "exported to ONNX, decoders with --to transformers or --to dense."
        )
    model = in_float32(exported.model)
    _export(exported, model, folder / MODEL)
    with quiet_transformers():
        plain_config(model).save_pretrained(folder)
        exported.tokenizer.save_pretrained(folder)
    expected = run_of(model, exported.form)
    notices, files = [], [MODEL]
    made: dict[str, Any] = {
        "parameters": model.num_parameters(),
        "largest_difference": check_same(exported, expected, session_of(folder / MODEL), MODEL),
    }
    if int8:
        _quantise(folder)
        files.append(INT8)
        dev, why = _dev_scores(exported, [folder / name for name in files])
        made |= {"dev": dev}
        notices += [why] if why else []
    if alike := reads_alike(exported, folder, texts_for(exported)):
        write_atomically(folder / "example.py", example(exported, files[-1]))
    else:
        notices.append("example.py is not written: the tokenizers library alone reads texts in another way.")
    write_atomically(folder / "README.md", readme(exported, made, files, example=alike))
    said = [f"Outputs equal torch's to {made['largest_difference']:.1g} of the largest on {MODEL}."]
    said += [f"dev score of {name}: {metrics['score']:.2f}" for name, metrics in (made.get("dev") or {}).items()]
    return {**made, "said": said, "notices": notices}


class _Outputs(nn.Module):
    """A model whose outputs are a plain tuple of tensors."""

    def __init__(self, model: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    # By name: of arguments that are not, the exporter takes no free sizes.
    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        return tuple(found[name] for name in self.names)


def _export(exported: Exported, model: Any, path: Path) -> None:
    names = output_names(exported.form)
    inputs = next(batches_of(exported, texts_for(exported)))
    size = sum(one.numel() * one.element_size() for one in model.parameters())
    try:
        with _quiet(), undisturbed(), torch.no_grad():
            torch.onnx.export(
                _Outputs(model, names).eval(),
                (),
                path,
                kwargs=inputs,
                input_names=list(inputs),
                output_names=list(names),
                dynamic_shapes={name: {0: "batch", 1: "length"} for name in inputs},
                dynamo=True,
                external_data=size > _ONE_FILE,
                verbose=False,
            )
    except Exception as error:  # the exporter's own, and whatever tracing a model raises
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outer ones are advice to whoever wrote the model
            cause = cause.__cause__
        said = " ".join(str(cause).split())[:300]
        raise StudyError(
            f"{exported.what}: torch {torch.__version__} cannot export a {model.config.model_type} model to ONNX "
            f"({type(cause).__name__}: {said}); --to transformers and --to dense need no exporter."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the context the exporter says nothing of packages that it does without, nor quantisation of other ways."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)


def session_of(path: Path) -> Run:
    """Return what onnxruntime computes of a file, on as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: Mapping[str, Tensor]) -> Mapping[str, NDArray[Any]]:
        found = session.run(names, {name: values.numpy() for name, values in inputs.items()})
        return dict(zip(names, found, strict=True))

    return run


def _quantise(folder: Path) -> None:
    """Write the file with weights of 8 bits: onnxruntime's dynamic quantisation, which needs no data."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        # Signed weights take half of the time of unsigned ones where there is VNNI. Of 7 bits, since without VNNI sums
        # of two products would overflow in silence, and the file does not know where it will run.
        quantize_dynamic(
            folder / MODEL,
            folder / INT8,
            weight_type=QuantType.QInt8,
            reduce_range=True,
            per_channel=True,
            use_external_data_format=any(folder.glob(f"{MODEL}.data")),
        )


class _AsModel:
    """A file as an evaluation takes a model: inputs in, an object with logits out."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def eval(self) -> "_AsModel":
        return self

    def __call__(self, **inputs: Tensor) -> Any:
        return SimpleNamespace(**{name: torch.from_numpy(value) for name, value in self._run(inputs).items()})


def _dev_scores(exported: Exported, paths: list[Path]) -> tuple[dict[str, dict[str, float]] | None, str]:
    """Return each file's metrics on the task's dev set; or None, and a sentence that says why there are none."""
    if exported.examples is None:
        return None, f"There is no dev score of {INT8}: no dev set is known, since {exported.what} is not of a study."
    if exported.form not in ("sequence", "spans", "tokens"):
        return None, f"There is no dev score of {INT8}: {exported.what} has no output layer of a task with labels."
    try:
        task = exported.examples()
    except TicketError as error:
        return None, f"There is no dev score of {INT8}: {error}"
    return {path.name: _on_dev(exported, task, path) for path in paths}, ""


def _on_dev(exported: Exported, task: Task, path: Path) -> dict[str, float]:
    # What is exported predicts in the targets' own units: a number is an output like any other.
    objective = Sequences(False, task.outputs) if task.form == "sequence" else objective_of(task)
    model, tokenizer, where = _AsModel(session_of(path)), exported.tokenizer, torch.device("cpu")
    found = dev_outputs(model, objective, task, tokenizer, exported.max_length, _DEV_AT_ONCE, "float32", where)
    return evaluate(task.metrics, task.dev.targets, found)
