"""Where real data may lie, beside a checkout."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
