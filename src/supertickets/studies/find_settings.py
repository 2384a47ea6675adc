"""Settings of `supertickets find`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from supertickets.anatomy import Shape
from supertickets.anatomy.cost import forward_flops
from supertickets.studies.budget import check_pays
from supertickets.studies.search_budget import check_search, readable
from supertickets.studies.settings import DrawnSettings, Grows, NoEffect, RateSettings, part
from supertickets.tickets import Ticket
from supertickets.tickets.drawing import KINDS, Drawing, Kind, draw_random
from supertickets.tickets.levels import Counts
from supertickets.tickets.scoring import ScoringSettings
from supertickets.tickets.targets import Targets

NARROW: dict[str, Any] = {"levels": (0.1,), "kinds": ("winning", "random"), "seeds": 20}
"""What a narrow design has by default: one light level, and many seeds."""


class FindSettings(Targets, DrawnSettings, RateSettings):
    """Settings of `supertickets find`."""

    design: Literal["wide", "narrow"] = Field(
        "wide",
        description="wide: the best of all levels; narrow: one level that is fixed beforehand (--levels 0.1, --kinds "
        "winning,random and --seeds 20 unless others are given)",
    )
    kinds: Grows[tuple[Kind, ...]] = Field(
        KINDS, description="kinds of tickets to train: winning, random, losing; none: train only the dense model"
    )
    control: NoEffect[Literal["none", "best-of-k", "equal-budget"]] = Field(
        "none",
        description="best-of-k: also train one dense model per level, with other seeds, to measure what choosing the "
        "best of them gives; equal-budget: also tune the dense model with the FLOPs that the winning tickets have used",
    )
    selection: NoEffect[Literal["whole", "sample"]] = Field(
        "whole",
        description="dev examples on which the paper's gain chooses each seed's level: a random --selection-share "
        "(sample; whole where that is too small), or all of them (whole)",
    )
    selection_share: NoEffect[float] = Field(
        0.1, gt=0, lt=1, description="fraction of the dev set for --selection sample (the paper's number is not known)"
    )
    teacher: Literal["none", "dense"] = Field(
        "none",
        description="dense: a ticket's training also fits the outputs of its seed's dense run on the training set "
        "(knowledge distillation); the dense model taught in the same way is trained as a control",
    )
    teacher_weight: float = Field(
        0.5, gt=0, le=1, description="fraction of the loss that fits the --teacher's outputs; the rest fits the targets"
    )
    teacher_temperature: float = Field(
        2.0,
        gt=0,
        description="temperature that softens the class probabilities of the --teacher and of the ticket it teaches",
    )
    soup: NoEffect[int] = Field(
        0,
        ge=0,
        description="train the dense model and each winning ticket this many times from the same initial weights, with "
        "other orders of batches and dropout, and evaluate the mean of the weights (a soup); 0: none",
    )
    search: NoEffect[Literal["none", "halving", "racing", "curve"]] = Field(
        "none",
        description="train only a part of the winning tickets to find the best level: the better half of the levels "
        "longer and longer (halving), those that no test has dropped (racing), or where a model of scores by level is "
        "least sure (curve); one half of the dev set is searched on, the other confirms the level; none: train all",
    )
    budget: NoEffect[Annotated[str, AfterValidator(readable)]] = Field(
        "0.25",
        description="what --search may spend, with all trainings of the level it finds: a fraction of what all winning "
        "tickets cost (0.25), or a number of trainings (20trainings), of FLOPs (3e15flops), or of hours (1.5hours), "
        "which are added up over trainings that run at the same time",
    )
    keep: NoEffect[Literal["none", "super", "dense", "all"]] = Field(
        "super",
        description="trained weights to keep on disk: those of the super ticket (super; without --kinds, of the best "
        "dense model), also of the dense models (dense), all or none",
    )

    @field_validator("kinds")
    @classmethod
    def _kinds_once(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if kind in kinds)

    @field_validator("soup")
    @classmethod
    def _a_soup_is_of_several(cls, soup: int) -> int:
        if soup == 1:
            raise ValueError("expected 0 (no soup) or at least 2 trainings, got 1")
        return soup

    @model_validator(mode="after")
    def _a_search_is_of_levels(self) -> Self:
        check_search(self)
        return self

    @model_validator(mode="after")
    def _a_target_is_one_level(self) -> Self:
        if self.target and self.control == "equal-budget":
            raise ValueError(
                f"--control equal-budget: --target {','.join(self.target)} trains one winning ticket a seed, whose "
                "FLOPs pay for no dense training; use --control none"
            )
        if self.target and not self.kinds:
            raise ValueError("--target: no tickets are drawn with --kinds none; expected winning among --kinds")
        return self

    @model_validator(mode="after")
    def _a_budget_is_of_winning_tickets(self) -> Self:
        if self.control == "equal-budget" and self.kinds and "winning" not in self.kinds:
            kinds = ",".join(self.kinds)
            raise ValueError(
                f"--control equal-budget: it spends the FLOPs that winning tickets have used, and --kinds {kinds} has "
                f"none; use --kinds winning,{kinds} or --control none"
            )
        return self

    def check_model(self, shape: Shape) -> None:
        """Raise TicketError also for levels that are too cheap for an equal-budget control."""
        if not self.target:
            super().check_model(shape)
        if self.control == "equal-budget":
            check_pays(self.levels, self._default_levels(), self.epochs, partial(_share_of_dense, self, shape))

    def _default_levels(self) -> list[float]:
        levels = type(self).model_fields["levels"].default
        return [level for level in levels if level not in self.levels]

    @model_validator(mode="after")
    def _narrow_has_one_level(self) -> Self:
        if self.design == "narrow":
            if "levels" in self.model_fields_set and (len(self.levels) > 1 or self.levels[0] == 0):
                given = ", ".join(map(str, self.levels))
                raise ValueError(f"--design narrow: one level above 0 is fixed beforehand (--levels), got {given}")
            if "winning" not in self.kinds:
                raise ValueError(
                    f"--design narrow: expected winning among --kinds, got {','.join(self.kinds) or 'none'}"
                )
        return self

    def preset_settings(self, shape: Shape) -> dict[str, Any]:
        """Return also what a narrow design has by default."""
        return super().preset_settings(shape) | (NARROW if self.design == "narrow" else {})

    @property
    def light(self) -> int:
        """How many light levels the phase test has; none where one level is fixed beforehand."""
        return (
            0
            if self.design == "narrow" or self.target or self.searches
            else -(-sum(bool(level) for level in self.levels) // 2)
        )

    def random_ticket(self, shape: Shape, level: float, counts: Counts, seed: int) -> Ticket:
        """Return a seed's random ticket of a level."""
        return draw_random(shape.of_tickets, self.units(shape), counts, level, seed, part(self, Drawing))

    def random_tickets(self, shape: Shape) -> dict[float, Ticket]:
        """Return a random ticket of each level: what a level costs hardly depends on what is drawn."""
        levels = self.drawn_levels(shape)
        return {level: self.random_ticket(shape, level, counts, 0) for level, counts in levels.items()}

    @property
    def title(self) -> str:
        """The task, and the fraction that is trained on."""
        return super().title.removesuffix("-find")

    def without_effect(self, asked: Mapping[str, Any]) -> dict[str, str]:
        """Return also what no ticket is drawn by."""
        idle = super().without_effect(asked)
        if self.target:
            why = "--target says what a ticket keeps"
            idle |= dict.fromkeys(("levels", "counts", "schedule"), why)
            idle["control"] = "there are no levels to choose among with --target"
            idle["random"] = "with --target, random tickets are drawn without replacement"
        if not any(target.quantity == "latency" for target in self.targets):
            idle["latency_of"] = "there is no --target latency"
        if not self.kinds:
            drawn = (
                "levels",
                "control",
                "selection",
                "learning_rates",
                "teacher",
                "soup",
                "search",
                *Drawing.model_fields,
            )
            drawn += (*ScoringSettings.model_fields,)
            idle |= dict.fromkeys(drawn, "no tickets are drawn (--kinds none)")
        else:
            idle |= self.unread([self.importance], "random" in self.kinds, self.kinds != ("random",))
            if "winning" not in self.kinds or not any(self.levels):
                idle["soup"] = "there are no winning tickets above level 0 (--kinds, --levels)"
            if self.searches:
                idle["selection"] = "--search chooses the level, on one half of the dev set"
            elif not self.chooses:
                idle["selection"] = "there are fewer than two levels of winning tickets to choose among"
                idle |= {"control": idle["selection"]} if self.control == "best-of-k" and not self.target else {}
        if "selection" in idle or self.selection == "whole":
            idle["selection_share"] = idle.get("selection", "levels are chosen on the whole dev set (--selection)")
        if not self.searches:
            idle["budget"] = idle.get("search", "it is used with --search only")
        if not self.teaches:
            why = idle.get("teacher", "it is used with --teacher dense only")
            idle |= dict.fromkeys(("teacher_weight", "teacher_temperature"), why)
        return idle

    @property
    def teaches(self) -> bool:
        """Whether tickets are taught by the dense runs."""
        return self.teacher == "dense" and bool(self.kinds)

    @property
    def searches(self) -> bool:
        """Whether only a part of the winning tickets is trained, to find the best level."""
        return self.search != "none" and bool(self.kinds)

    @property
    def chooses(self) -> bool:
        """Whether there are levels to choose among when all runs have ended."""
        several = "winning" in self.kinds and sum(bool(level) for level in self.levels) > 1
        return several and not self.target and not self.searches


def _share_of_dense(settings: FindSettings, shape: Shape, level: float | str) -> float:
    """Return what a level's ticket costs, in dense trainings; a full one is the dense run itself and costs no more."""
    (ticket,) = settings.model_copy(update={"levels": (level,)}).random_tickets(shape).values()
    whole = forward_flops(shape, Ticket.full(*shape.of_tickets), 1, 32)
    return 0.0 if ticket.is_full else forward_flops(shape, ticket, 1, 32) / whole
