"""Precision is chosen by what the device does well, and a wrong wish is refused."""

from __future__ import annotations

import pytest
import torch

from orca.errors import UserError
from orca.training import choose_precision


def test_auto_gives_a_reason_and_wishes_are_checked() -> None:
    name, reason = choose_precision("auto", torch.device("cpu"))
    assert name in ("bf16-mixed", "32-true") and "cpu" in reason.lower()
    assert choose_precision("32-true", torch.device("cpu")) == ("32-true", "as configured")
    with pytest.raises(UserError, match="bf16-true"):
        choose_precision("bf16-true", torch.device("cpu"))
