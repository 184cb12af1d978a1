"""Where a model is evaluated, and how many images at a time. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from memaudit.options import Option, check_options

Precision = Literal["auto", "fp32", "tf32", "fp16", "bf16"]
Compile = Literal["auto", "on", "off"]

HANDED_OUT = 64
"""Images that a CPU hands out at a time by default."""


@dataclass(frozen=True)
class Execution:
    """Where and in what portions a model is evaluated.

    On a CPU results do not depend on the portions; on a GPU their last bits do.
    """

    batch_size: Annotated[
        int | None,
        Option(
            "Images sampled at a time, at most. On a CPU an image does not depend on it; on a GPU "
            "its last bits do.",
            at_least=1,
            metavar="N",
            default_text="64; on a GPU as many as its memory holds, up to 512",
        ),
    ] = None
    device: Annotated[
        str, Option("Where to compute: cpu, cuda, or one GPU such as cuda:1.", metavar="DEVICE")
    ] = "cpu"
    precision: Annotated[
        Precision,
        Option(
            "Number format of the network: fp32, or a faster one. A scan takes it for more than "
            "1,024 images, and samples again in fp32 those whose verdict could differ. auto: fp16 "
            "on NVIDIA GPUs of capability 8.0 or more, or where the checkpoint asks for it; fp32 "
            "elsewhere, under a gate and in sample."
        ),
    ] = "auto"

    compile: Annotated[
        Compile,
        Option(
            "torch.compile the network where it is evaluated in fp16 or bf16; auto: on a GPU, "
            "where the number of images makes up for the minute that it takes."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def is_faster(self) -> bool:
        """Whether a faster format than fp32 was chosen; auto has not been resolved to one."""
        return self.precision not in ("auto", "fp32")
