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


def light(role: str) -> str:
    """The colour to draw a role in."""
    return PALETTE[role][0]


def variables(dark: bool) -> str:
    """CSS declarations of all roles."""
    return " ".join(f"--{role}: {pair[dark]};" for role, pair in PALETTE.items())
