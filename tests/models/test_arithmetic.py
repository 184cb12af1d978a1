"""What a product of float32 numbers is, whatever a program asked of PyTorch before."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from memaudit.models.arithmetic import fp32_products

NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")
OLDER_SETTINGS = {
    "nothing": "",
    "high": "torch.set_float32_matmul_precision('high')",
    "medium": "torch.set_float32_matmul_precision('medium')",
    "matmul allowed": "torch.backends.cuda.matmul.allow_tf32 = True",
    "cudnn forbidden": "torch.backends.cudnn.allow_tf32 = False",
}
NEWER_SETTINGS = {
    "all tf32": "torch.backends.fp32_precision = 'tf32'",
    "all ieee": "torch.backends.fp32_precision = 'ieee'",
    "matmul tf32": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "matmul ieee": "torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "cudnn tf32": "torch.backends.cudnn.fp32_precision = 'tf32'",
    "conv tf32": "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "conv ieee": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "cpu bf16": "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'",
    "both": "torch.backends.fp32_precision = 'tf32'; torch.backends.cudnn.allow_tf32 = False",
}
CHECK = """
import torch
from memaudit.models.arithmetic import fp32_products
newer = hasattr(torch.backends.cuda.matmul, "fp32_precision")

def read(place, name):
    try:
        return getattr(place, name)
    except RuntimeError:
        return "raises"

def older():
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return [read(cuda, "allow_tf32"), read(cudnn, "allow_tf32")]

def newest():
    cuda, cudnn, cpu = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    places = [cuda.matmul, cudnn.conv, cudnn.rnn, cpu.matmul, cpu.conv] if newer else []
    return [place.fp32_precision for place in places]

SETTINGS
before = older(), newest()
for tf32 in (False, True):
    with fp32_products(tf32):
        assert older() == [tf32, tf32], older()
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        if newer:
            assert newest() == ["tf32" if tf32 else "ieee"] * 3 + ["ieee"] * 2, newest()
        with torch.backends.cudnn.flags(enabled=True):  # reads and writes the older switches
            pass
after = older(), newest()
assert after[1] == before[1], (before, after)
assert all(a == b or b == "raises" for a, b in zip(after[0], before[0])), (before, after)
"""


def run(code: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, env=os.environ | environment
    )


def in_processes_of_their_own(settings: dict[str, str]) -> str:
    """Code that checks each of the settings in a fork, since most cannot be taken back."""
    checks = [CHECK.replace("SETTINGS", setting) for setting in settings.values()]
    return f"""
import os, sys, torch, memaudit.models.arithmetic
for check in {checks!r}:
    child = os.fork()
    if not child:
        try:
            exec(check, {{}})
        except BaseException as error:
            print(check, repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert not os.waitpid(child, 0)[1]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="settings are tried in forks")
def test_products_are_what_was_asked_whatever_a_program_set_and_all_is_put_back():
    """In the older words and the newer, of which reading one raises if the other contradicts it."""
    run(in_processes_of_their_own(OLDER_SETTINGS | (NEWER_SETTINGS if NEWER else {})))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="settings are tried in forks")
def test_the_variable_that_nvidias_containers_set_does_not_turn_products_to_tf32():
    settings = {name: OLDER_SETTINGS[name] for name in ("nothing", "cudnn forbidden")}
    run(in_processes_of_their_own(settings), TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1")


def allowed() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_the_context_opened_last_counts():
    before = allowed()
    with fp32_products(True):
        assert allowed() == (True, True)
        with fp32_products(False):
            assert allowed() == (False, False)
        assert allowed() == (True, True)
    assert allowed() == before


def test_contexts_of_two_threads_may_end_in_any_order():
    before = allowed()
    opened, closed = threading.Event(), threading.Event()
    seen = []

    def beside() -> None:
        with fp32_products(False):
            opened.set()
            assert closed.wait(10)
            seen.append(allowed())

    thread = threading.Thread(target=beside)
    with fp32_products(False):
        thread.start()
        assert opened.wait(10)
    closed.set()
    thread.join()
    assert seen == [(False, False)]
    assert allowed() == before
