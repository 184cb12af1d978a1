"""How noise becomes an image: the options of EDM's samplers. Imports no torch."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args

from memaudit.errors import ConfigError
from memaudit.options import Option, check_options

Sampler = Literal["edm", "own"]
Solver = Literal["euler", "heun", "multistep", "dopri5", "ddim", "ancestral"]
Discretization = Literal["vp", "ve", "iddpm", "edm"]
Schedule = Literal["vp", "ve", "linear"]
Scaling = Literal["vp", "none"]

ABLATIONS: dict[str, tuple[str, ...]] = {
    "solver": ("euler", "heun"),
    "discretization": get_args(Discretization),
    "schedule": get_args(Schedule),
    "scaling": get_args(Scaling),
}
"""The four choices that EDM's ablations compare, and the values of each."""

NUM_STEPS = 18
"""Steps of Algorithm 2, as published for CIFAR-10."""
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""Noise levels of Algorithm 2, as published."""
OWN = ("sampler", "solver", "num_steps", "guidance", "sigma_max")
"""Options that a model's own sampler has; the noise levels of the others are the model's."""
OWN_STEPS: dict[Solver, int | None] = {"ddim": 50, "euler": 100, "heun": 50, "dopri5": None}
"""Steps of a model's own sampler by default. The ancestral one takes every level, as published."""
OF_LEVELS: tuple[Solver, ...] = ("ddim", "ancestral")
OF_FLOWS: tuple[Solver, ...] = ("dopri5", "heun", "euler")
"""Solvers of discrete levels and of flows, each the default first."""
OWN_SOLVERS = (OF_LEVELS[0], OF_FLOWS[0])
"""Solvers by default."""
SOLVER_NAMES = {
    "euler": "Euler",
    "heun": "Heun",
    "multistep": "DPM-Solver++(2M)",
    "dopri5": "Dormand–Prince (dopri5)",
    "ddim": "DDIM",
    "ancestral": "ancestral (DDPM)",
}


@dataclass(frozen=True)
class SamplerConfig:
    """How noise becomes an image. The defaults are EDM's Algorithm 2 as published for CIFAR-10.

    Giving any of solver, discretization, schedule and scaling chooses EDM's general sampler
    (Algorithm 1).
    """

    num_steps: Annotated[
        int | None,
        Option(
            "Sampling steps; Heun evaluates the network 2N-1 times per image.",
            at_least=1,
            flag="--steps",
            metavar="N",
            default_text="18; with --sampler own, ddim: 50, ancestral: all levels, euler: 100, "
            "heun: 50",
        ),
    ] = None
    sigma_min: Annotated[
        float | None,
        Option(
            "Lowest noise level above 0.",
            above=0,
            below=math.inf,
            metavar="SIGMA",
            default_text="0.002; with --discretization, its own",
        ),
    ] = None
    sigma_max: Annotated[
        float | None,
        Option(
            "Noise level to start from.",
            above=0,
            below=math.inf,
            metavar="SIGMA",
            default_text="80; with --discretization, its own",
        ),
    ] = None
    rho: Annotated[
        float,
        Option(
            "Exponent of EDM's noise levels; larger means shorter steps at low noise.",
            above=0,
            below=math.inf,
            metavar="RHO",
        ),
    ] = 7.0
    S_churn: Annotated[
        float,
        Option(
            "Total amount of noise added during sampling; 0 is deterministic sampling.",
            at_least=0,
            below=math.inf,
            metavar="S",
        ),
    ] = 0.0
    S_min: Annotated[
        float,
        Option("Lowest noise level at which noise is added.", at_least=0, metavar="SIGMA"),
    ] = 0.0
    S_max: Annotated[
        float,
        Option("Highest noise level at which noise is added.", at_least=0, metavar="SIGMA"),
    ] = math.inf
    S_noise: Annotated[
        float,
        Option(
            "Standard deviation of the added noise, relative to the exact one.",
            at_least=0,
            below=math.inf,
            metavar="S",
        ),
    ] = 1.0
    guidance: Annotated[
        float,
        Option(
            "Guide a model that was trained with and without classes: D(x) + W (D(x, class) - "
            "D(x)) denoises; 1 is the model as it is.",
            at_least=0,
            below=math.inf,
            metavar="W",
        ),
    ] = 1.0
    sampler: Annotated[
        Sampler,
        Option(
            "What samples: edm, EDM's sampler for every model; or own, the model's: DDIM or DDPM's "
            "ancestral steps for discrete noise levels, an ODE in time for flows."
        ),
    ] = "edm"
    solver: Annotated[
        Solver | None,
        Option(
            "Integration method: first-order euler or second-order heun. This or any of the next "
            "three options chooses EDM's general sampler. Or multistep, DPM-Solver++(2M), with one "
            "evaluation per step. With --sampler own: ddim or ancestral for discrete levels; "
            "euler, heun or dopri5 for flows.",
            default_text="heun; with --sampler own, ddim or dopri5",
        ),
    ] = None
    discretization: Annotated[
        Discretization | None,
        Option(
            "Noise levels that sampling visits: those of VP, VE, iDDPM or EDM.",
            default_text="edm",
        ),
    ] = None
    schedule: Annotated[
        Schedule | None,
        Option(
            "Noise level as a function of time: VP's, VE's (square root) or linear.",
            default_text="linear",
        ),
    ] = None
    scaling: Annotated[
        Scaling | None,
        Option(
            "Scale of the image as a function of time: VP's, or none.",
            default_text="none",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.sampler == "own":
            self._check_own()
            return
        if self.solver not in (None, "multistep", *ABLATIONS["solver"]):
            raise ConfigError(
                f"{{solver}} is {self.solver}, which is of {{sampler}} own; EDM's sampler has "
                "euler, heun and multistep.",
                field=("solver", "sampler"),
            )
        if self.solver == "multistep":
            self._check_multistep()
        if self.num_steps is None:
            object.__setattr__(self, "num_steps", NUM_STEPS)
        for low, high in (("sigma_min", "sigma_max"), ("S_min", "S_max")):
            lowest, highest = getattr(self, low), getattr(self, high)
            if lowest is not None and highest is not None and lowest > highest:
                raise ConfigError(
                    f"{{{low}}} is {lowest:g} and {{{high}}} is {highest:g}; "
                    "the first must not be larger than the second.",
                    field=(low, high),
                )

    def _check_own(self) -> None:
        others = {each.name: each.default for each in fields(self) if each.name not in OWN}
        changed = [name for name, usual in others.items() if getattr(self, name) != usual]
        if changed:
            raise ConfigError(
                f"{{{changed[0]}}} is an option of EDM's sampler, but {{sampler}} is own; leave "
                "one of them out.",
                field=(changed[0], "sampler"),
            )

    def _check_multistep(self) -> None:
        others = [name for name in ABLATIONS if name != "solver" and getattr(self, name)]
        others += ["S_churn"] if self.S_churn else []
        if others:
            raise ConfigError(
                f"{{{others[0]}}} is given, but {{solver}} is multistep, which takes EDM's noise "
                "levels and adds no noise; leave one of them out.",
                field=(others[0], "solver"),
            )

    @property
    def is_ablation(self) -> bool:
        """Whether EDM's general sampler is chosen, in place of Algorithm 2."""
        is_general = any(getattr(self, name) is not None for name in ABLATIONS)
        return self.sampler == "edm" and self.solver != "multistep" and is_general

    @property
    def by_edm(self) -> "SamplerConfig":
        """EDM's sampler for what is compared at its noise levels: itself, or else as published."""
        return self if self.sampler == "edm" else SamplerConfig(guidance=self.guidance)

    @property
    def text(self) -> str:
        """What samples, in words: `EDM’s Heun sampler in 18 steps`."""
        whose = "EDM’s" if self.sampler == "edm" else "its own"
        whose = "the" if self.solver == "multistep" else whose
        steps = ""
        if self.num_steps is not None:
            steps = " in 1 step" if self.num_steps == 1 else f" in {self.num_steps:,} steps"
        guided = "" if self.guidance == 1 else f", guided by w = {self.guidance:g}"
        return f"{whose} {SOLVER_NAMES[self.solver or 'heun']} sampler{steps}{guided}"

    def resolved(self) -> "SamplerConfig":
        """The same with the noise levels that Algorithm 2 takes by default."""
        if self.is_ablation or self.sampler == "own":
            return self
        return replace(
            self,
            sigma_min=SIGMA_MIN if self.sigma_min is None else self.sigma_min,
            sigma_max=SIGMA_MAX if self.sigma_max is None else self.sigma_max,
        )

    def as_dict(self) -> dict[str, Any]:
        """Every option by name, with the noise levels that Algorithm 2 takes by default."""
        return asdict(self.resolved())
