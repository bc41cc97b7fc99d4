"""The colours of reports: what each stands for, on light ground and on dark.

Pictures are drawn in the light ones; a page puts a variable in the place of each, so that dark mode can exchange them.
Text colours have a contrast of 4.5 to 1 or more on both grounds and on both cards (WCAG 2.2, 1.4.3). The marks are told
apart under the common kinds of colour blindness, and never by colour alone: shapes and labels say the same.
"""

PALETTE = {
    "text": ("#1c1d21", "#e8e9ec"),
    "soft": ("#5b5f6a", "#a9aeb9"),
    "ground": ("#ffffff", "#16181d"),
    "card": ("#f4f5f8", "#20232a"),
    "line": ("#d3d7de", "#3d424c"),
    "mark": ("#2a5db0", "#86b1f5"),
    "winner": ("#0f6e4f", "#5fcf9f"),
    "own": ("#8f5300", "#f0b562"),
    "bad": ("#a8321f", "#f2937f"),
    "final": ("#6b429e", "#c3a4f1"),
    "rest": ("#7d838f", "#8b919d"),
}
"""{role: (on light, on dark)}; `mark` is a trial, `winner`, `own` (the config's own values) and `bad` (failed, broken)
stand out, `final` is what ran on the final half, `rest` what stands back. `line` is for grids and borders alone."""

READ = ("text", "soft", "mark", "winner", "own", "bad", "final")
"""The roles that text may have."""


def light(role: str) -> str:
    """The colour to draw a role in."""
    return PALETTE[role][0]


def variables(dark: bool) -> str:
    """CSS declarations of all roles."""
    return " ".join(f"--{role}: {pair[dark]};" for role, pair in PALETTE.items())


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
