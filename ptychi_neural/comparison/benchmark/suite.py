"""Benchmark suites: engines on scans that differ along axes.

A suite has the contents of a run file as its ``[base]``, and the points of its axes change keys of
it. A cell is one point of each axis, one kind of object, one seed and one engine.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ptychi_neural.comparison.benchmark.cell import Cell
from ptychi_neural.comparison.benchmark.record import score_columns
from ptychi_neural.comparison.engines import ENGINES
from ptychi_neural.comparison.held_out_pixels import HELD_OUT_FRACTION
from ptychi_neural.runs.configuration import merged
from ptychi_neural.scans.frames import Frames

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")]
"""Part of a file name."""

Moment = Literal["end", "best_held_out", "best_truth"]
"""Epoch of an engine: the last, that of the best held-out likelihood, or that of the smallest error
against the ground truth."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Point(_Model):
    """One point of an axis."""

    label: Label
    """Name of the point in tables and files."""

    changes: dict[str, Any] = {}
    """Keys of the run file, dotted or nested, and their values."""

    frames: Frames = Frames()
    """Part of the scan that is reconstructed."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Wall time after which an engine is stopped. None: the suite's."""

    bar: float | None = Field(default=None, gt=0)
    """Largest ratio of the error of ``engine`` to that of the best baseline that is asked for."""

    engine: Label | None = None
    """Engine that is compared with the best baseline here. None: the suite's first."""

    engines: list[Label] | None = None
    """Engines that are run here. None: all of them."""


class Bar(_Model):
    """What is asked for where several axes come together."""

    at: dict[Label, Label] = Field(min_length=1)
    """Labels of points by the names of their axes."""

    ratio: float = Field(gt=0)
    """Largest ratio of the error of the compared engine to that of the best baseline."""


class Variant(_Model):
    """An engine as a suite runs it."""

    engine: Literal[tuple(ENGINES)] | None = None  # type: ignore[valid-type]
    """Engine of the catalogue. None: the one of the variant's name."""

    changes: dict[str, Any] = {}
    """Options, dotted or nested, that differ from those of all engines and the engine's own. In
    texts ``{seed}`` stands for the cell's seed: ``"results/{seed}/generator-best.safetensors"``."""

    after: Label | None = None
    """Engine of the suite from whose object, probe and positions this one starts, as the other
    leaves them. The other's time counts."""

    judged_at: Moment | None = None
    """When the engine is judged. None: as the suite says."""

    held_out_fraction: float | None = Field(default=None, ge=0, lt=1)
    """Share of the detector's pixels that the engine does not see. None: the suite's."""

    max_seconds: float | None = Field(default=None, gt=0)
    """Wall time after which the engine is stopped. None: the point's or the suite's."""


class Figures(_Model):
    """What is drawn besides the course of every engine."""

    map: tuple[Label, Label] | None = None
    """Two axes, the first from left to right, over which ratios of errors are drawn."""

    curves: Label | None = None
    """Axis over which ``metrics`` are drawn."""

    metrics: list[str] = ["error"]
    """Columns of ``table.csv`` that are drawn over ``curves``."""


class Reduced(_Model):
    """What the reduced form of a suite keeps. It keeps everything where nothing is said."""

    axes: dict[Label, list[Label]] = {}
    """Labels of the points of some axes."""

    objects: list[Label] | None = None
    """Kinds of objects."""

    seeds: list[int] | None = None
    """Seeds."""

    engines: list[Label] | None = None
    """Engines of the suite."""


class Suite(_Model):
    """A benchmark suite."""

    name: Label
    """Name of the results folder."""

    description: str
    """One line that says what the suite compares."""

    base: dict[str, Any]
    """Contents of a run file."""

    axes: dict[Label, list[Point]] = Field(min_length=1)
    """Points that change the base, by the name of their axis."""

    objects: list[Label] = []
    """Kinds of simulated objects. An empty list keeps that of the base."""

    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    """Seeds of both simulation and engine."""

    engines: dict[Label, Variant] = Field(min_length=1)
    """Engines by name. The first is the one that is compared with the others."""

    baselines: list[Label] = []
    """Engines of which the best in each cell is the measure of the others."""

    bars: list[Bar] = []
    """What is asked for at some combinations of points, besides the bars of single points."""

    judged_at: Moment = "best_held_out"
    """When engines are judged."""

    held_out_fraction: float = Field(default=HELD_OUT_FRACTION, ge=0, lt=1)
    """Share of the detector's pixels that no engine sees."""

    half_scans: bool = False
    """Whether two halves of the scan, every second frame each, are reconstructed and compared."""

    intervals: bool = False
    """Whether the neural engine's intervals of amplitude and phase are measured and compared with
    the truth, which takes two more initial reconstructions."""

    max_seconds: float = Field(gt=0)
    """Wall time after which an engine is stopped."""

    equal_seconds: float | None = Field(default=None, gt=0)
    """Wall time at which all engines are scored."""

    n_snapshots: int = Field(default=20, ge=2)
    """Approximate number of epochs of a run that are scored."""

    head_start_epochs: list[Annotated[int, Field(ge=0)]] = [40, 200]
    """Epochs of an engine from an empty object to which the same engine ``after`` another one is
    compared."""

    figures: Figures = Figures()
    """What is drawn."""

    reduced: Reduced = Reduced()
    """What is run unless the whole suite is asked for."""

    @model_validator(mode="after")
    def _is_consistent(self) -> "Suite":
        problems = [
            *self._problems_of_names(),
            *self._problems_of_axes(),
            *self._problems_of_engines(),
        ]
        if problems:
            raise ValueError("\n  - ".join(problems))
        return self

    def _problems_of_names(self) -> Iterator[str]:
        """Names that refer to nothing in the suite."""
        axes = {name: [point.label for point in points] for name, points in self.axes.items()}
        named: list[tuple[str, Collection[Any] | None, Collection[Any]]] = [
            ("baselines", self.baselines, self.engines),
            ("figures.map", self.figures.map, axes),
            ("figures.curves", self.figures.curves and [self.figures.curves], axes),
            ("figures.metrics", self.figures.metrics, score_columns()),
            ("reduced.objects", self.reduced.objects, self.objects),
            ("reduced.seeds", self.reduced.seeds, self.seeds),
            ("reduced.engines", self.reduced.engines, self.engines),
            ("reduced.axes", self.reduced.axes, axes),
            *(
                (f"axes.{k}.{point.label}.engine", point.engine and [point.engine], self.engines)
                for k, points in self.axes.items()
                for point in points
            ),
            *(
                (f"axes.{k}.{point.label}.engines", point.engines, self.engines)
                for k, points in self.axes.items()
                for point in points
            ),
            *(
                (f"bars.{number}.at", [label], axes.get(name, ()))
                for number, bar in enumerate(self.bars)
                for name, label in bar.at.items()
            ),
            *((f"reduced.axes.{k}", v, axes.get(k, ())) for k, v in self.reduced.axes.items()),
        ]
        for key, names, known in named:
            if unknown := [name for name in names or () if name not in known]:
                yield (
                    f"{key}: there is no {', '.join(map(str, unknown))}, only "
                    f"{', '.join(map(str, known))}"
                )

    def _problems_of_axes(self) -> Iterator[str]:
        for name, points in self.axes.items():
            labels = [point.label for point in points]
            if not labels or len(set(labels)) < len(labels):
                yield f"axes.{name}: needs points with different labels"
            if name in ("object", "seed", "engine"):
                yield f"axes.{name}: the name is taken, choose another"

    def _problems_of_engines(self) -> Iterator[str]:
        for name, variant in self.engines.items():
            engine = ENGINES.get(variant.engine or name)
            if engine is None:
                yield f"engines.{name}.engine: required, one of {', '.join(ENGINES)}"
            if variant.after is not None and (
                variant.after not in self.engines or self.engines[variant.after].after is not None
            ):
                yield f"engines.{name}.after: must be an engine of the suite that is after none"
            has_truth = "simulation" in self.base
            chooses_weight = engine is not None and engine.total_variation_weights and not has_truth
            if self.held_out(name) == 0 and (
                self.judged(name) == "best_held_out" or chooses_weight
            ):
                yield (
                    f"engines.{name}.held_out_fraction: above 0, because held-out pixels choose "
                    "its epoch or weight"
                )
            if self.judged(name) == "best_truth" and not has_truth:
                yield f"engines.{name}.judged_at: best_truth needs base.simulation"

    def judged(self, engine: str) -> Moment:
        """When an engine is judged."""
        return self.engines[engine].judged_at or self.judged_at

    def held_out(self, engine: str) -> float:
        """Share of the detector's pixels that an engine does not see."""
        fraction = self.engines[engine].held_out_fraction
        return self.held_out_fraction if fraction is None else fraction

    def without_start(self, engine: str) -> str | None:
        """The engine of the suite that differs from one that is ``after`` another only in that it
        starts from an empty object; None if there is none."""
        variant = self.engines[engine]
        if variant.after is None:
            return None
        alone = variant.model_copy(update={"engine": variant.engine or engine, "after": None})
        for name, other in self.engines.items():
            if other.model_copy(update={"engine": other.engine or name}) == alone:
                return name
        return None

    def cells(self, whole: bool) -> list[Cell]:
        """The cells of the whole or the reduced form; those of one scan follow each other."""
        kept = Reduced() if whole else self.reduced
        axes = [
            [point for point in points if point.label in kept.axes.get(name, [point.label])]
            for name, points in self.axes.items()
        ]
        objects: Sequence[str | None] = self.objects if kept.objects is None else kept.objects
        seeds = self.seeds if kept.seeds is None else kept.seeds
        engines = list(self.engines) if kept.engines is None else kept.engines
        scans = itertools.product(itertools.product(*axes), objects or [None], seeds)
        cells = []
        for points, kind, seed in scans:
            coordinates = dict(zip(self.axes, (point.label for point in points)))
            changes: dict[str, Any] = {"reconstructor_options.random_seed": seed}
            if "simulation" in self.base:
                changes["simulation.seed"] = seed
            if kind is not None:
                coordinates["object"] = changes["simulation.object.kind"] = kind
            limits = [point.max_seconds for point in points if point.max_seconds is not None]
            cells += [
                Cell(
                    coordinates={**coordinates, "seed": str(seed)},
                    engine=engine,
                    seed=seed,
                    contents=merged(self.base, changes, *(point.changes for point in points)),
                    frames=[point.frames for point in points],
                    max_seconds=self.engines[engine].max_seconds
                    or min(limits, default=self.max_seconds),
                )
                for engine in engines
                if all(point.engines is None or engine in point.engines for point in points)
            ]
        return cells
