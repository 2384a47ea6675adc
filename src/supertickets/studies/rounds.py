"""The steps of `imp`: rounds of training and pruning, and what their tickets are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from supertickets.lab.outcome import MASK
from supertickets.lab.steps import Done, Step
from supertickets.lab.trial import Prune, Rewound, Trial, WeightMask
from supertickets.studies.imp_settings import CONTROLS, Control, RewindPoint
from supertickets.studies.settings import part
from supertickets.studies.study import full_ticket, training_flops, trial_of
from supertickets.tickets.weights import Pruning
from supertickets.training.recipe import Span

if TYPE_CHECKING:
    from supertickets.evidence.runs import TaskInfo
    from supertickets.lab.outcome import Outcome
    from supertickets.studies.imp_settings import ImpSettings

_BY_RULE = {"one-shot": "magnitude", "random": "random"}
"""Controls whose masks need no ticket, by what draws them."""
INITIAL = {name: name.removesuffix("-weights") for name in CONTROLS[3:]}
"""Controls that train a ticket's mask on other weights than the pre-trained ones, by what these are."""
_SCOPES: dict[str, Rewound] = {"backbone": "encoder", "prunable": "prunable"}
"""What is put back to the pre-trained weights, by --rewind-scope."""
_ROUNDS = 10  # of the released code's learning rate schedule, however many rounds there are here
_FRESH = 10_007  # far from the seeds that studies are given, so that new output layers are no other seed's


class Rounds:
    """The steps of one seed.

    A round's training is the evaluation of the ticket that it starts with, where both are the same: the output layer
    as at the start, everything rewound, the learning rate falling to 0. So the defaults train once a sparsity.
    Otherwise tickets are trained apart.
    """

    def __init__(self, settings: ImpSettings, task: TaskInfo, seed: int) -> None:
        self.settings, self.task, self.seed = settings, task, seed
        self.pruning = part(settings, Pruning)
        self.full = full_ticket(task)
        # Pruned weights cost what all weights do.
        self.cost = training_flops(task, self.full, settings.epochs)
        self.masks: dict[float, Step | WeightMask] = {}
        """The first rewind point's tickets by sparsity: the step that draws each, or the rule."""

    def steps(self) -> Iterator[Step]:
        """Yield the dense run, each rewind point's rounds and tickets, and the controls."""
        settings, first = self.settings, self.settings.sparsities[0]
        dense_prunes = settings.lr_schedule_over == "round" and not settings.prune_at_init
        dense = self._step("dense", prune=self._prune(first) if dense_prunes else None)
        yield dense
        drawn: Step | WeightMask = dense
        if settings.prune_at_init:
            drawn = self._rule("magnitude", first)
        elif not dense_prunes:
            drawn = self._step("round", prune=self._prune(first), span=self._span(0.0))
            yield drawn
        for point in settings.rewind_points:
            yield from self._rounds(point, drawn)
        for kind in settings.controls:
            for sparsity in settings.control_sparsities or settings.sparsities:
                yield self._control(kind, sparsity)

    def _rounds(self, point: RewindPoint, mask: Step | WeightMask) -> Iterator[Step]:
        """Yield a rewind point's rounds and tickets, of which `mask` is the first one's."""
        settings, share, begun = self.settings, point.share or 0.0, None
        if share:
            # Weights after that share of the training, whichever epoch of it scores best.
            recipe = settings.recipe.model_copy(update={"keep_epoch": "last", "patience": None})
            begun = self._step("start", point=point, span=Span(skip=0.0, stop=share, lr_horizon=1), recipe=recipe)
            yield begun
        goes_on = point.share is None or settings.output_layer == "carry" or settings.rewind_scope == "prunable"
        judged = self._judged(point)
        for i, sparsity in enumerate(settings.sparsities):
            if not point.label:
                self.masks[sparsity] = mask
            if not judged:
                span = Span(skip=share, stop=1.0, lr_horizon=1)
                yield self._step("imp", sparsity, point, mask, begun, span=span)
            following = settings.sparsities[i + 1 : i + 2]
            if judged or following:
                before = mask if goes_on and isinstance(mask, Step) else None
                fresh = settings.output_layer == "fresh" and point.share == 0
                mask = self._step(
                    "imp" if judged else "round",
                    sparsity,
                    point,
                    mask,
                    begun or before,
                    span=self._span(share),
                    prune=self._prune(following[0]) if following else None,
                    seed=self.seed + _FRESH * (i + 1) if fresh else self.seed,
                )
                yield mask

    def _judged(self, point: RewindPoint) -> bool:
        """Whether a rewind point's rounds are also the trainings that its tickets are judged by.

        What is not rewound has no other training: standard pruning is judged as it stands.
        """
        settings = self.settings
        like_tickets = (settings.lr_schedule_over, settings.output_layer, settings.rewind_scope)
        return point.share is None or like_tickets == ("round", "rewind", "backbone")

    def _control(self, kind: Control, sparsity: float) -> Step:
        if kind in _BY_RULE:
            return self._step(kind, sparsity, mask=self._rule(_BY_RULE[kind], sparsity))
        return self._step(kind, sparsity, mask=self.masks[sparsity], initial=INITIAL.get(kind, "pretrained"))

    def _step(
        self,
        kind: str,
        sparsity: float = 0.0,
        point: RewindPoint | None = None,
        mask: Step | WeightMask | None = None,
        start: Step | None = None,
        **parts: Any,
    ) -> Step:
        """Return a step with a mask, by a rule or drawn by another step, and from the weights of another one."""

        def make(done: Done) -> Trial:
            found = {"seed": self.seed, **parts}
            if mask is not None:
                found["mask"] = _drawn(done[mask]) if isinstance(mask, Step) else mask
            if kind == "matched":
                found["mask"] = found["mask"].model_copy(update={"how": "matched", "seed": self.seed})
            if start is not None and point is not None:
                back = point.share == 0
                layer = None if back and self.settings.output_layer != "carry" else 0
                found["start"] = done[start].start(layer, _SCOPES[self.settings.rewind_scope] if back else "nothing")
            return trial_of(self.settings, self.task, self.full, **found)

        span = parts.get("span", Span.model_validate({}))
        return Step(
            {"kind": kind, "sparsity": sparsity, "rewind": point.label if point is not None else "", "seed": self.seed},
            make,
            needs=(mask,) if isinstance(mask, Step) else (),
            starts_from=() if start is None else (start,),
            keep="yes" if self.settings.keep == "all" else "no",
            cost=self.cost * (span.stop - span.skip),
        )

    def _rule(self, how: str, sparsity: float) -> WeightMask:
        drawn = {"how": how, "sparsity": sparsity, "pruning": self.pruning}
        return WeightMask.model_validate(drawn | ({"seed": self.seed} if how == "random" else {}))

    def _prune(self, sparsity: float) -> Prune:
        return Prune(sparsity=sparsity, pruning=self.pruning)

    def _span(self, skip: float) -> Span:
        """Return the part of the training that a round has, with the search's learning rate schedule."""
        horizon = 1 if self.settings.lr_schedule_over == "round" else _ROUNDS
        return Span.model_validate({"skip": skip, "lr_horizon": horizon})


def _drawn(outcome: Outcome) -> WeightMask:
    """Return the ticket that a training drew at its end."""
    path = (outcome.folder / MASK).resolve()
    return WeightMask.model_validate({"how": "file", "path": path, "digest": outcome.files[MASK]})
