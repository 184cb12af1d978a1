"""Where a model is evaluated, and how many images at a time. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memaudit.options import Option, check_options

Precision = Literal["auto", "fp32", "tf32", "fp16", "bf16"]


@dataclass(frozen=True)
class Execution:
    """Where and in what portions a model is evaluated. On a CPU, results do not depend on it."""

    batch_size: Annotated[
        int,
        Option(
            "Images sampled at a time; bounds the memory, does not change the result.",
            at_least=1,
            metavar="N",
        ),
    ] = 64
    device: Annotated[
        str, Option("Where to compute: cpu, cuda, or one GPU such as cuda:1.", metavar="DEVICE")
    ] = "cpu"
    precision: Annotated[
        Precision,
        Option(
            "Number format of the network: fp32, or a faster one whose images are sampled again in "
            "fp32 wherever their verdict could differ. auto: fp16 on NVIDIA GPUs of capability 8.0 "
            "or more, else fp32."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        check_options(self)
