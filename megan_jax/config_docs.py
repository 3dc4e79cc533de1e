"""Prints docs/configuration.md: `python -m megan_jax.config_docs > docs/configuration.md`."""

from __future__ import annotations

from megan_jax.config_keys import SECTIONS, Key


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(empty)"
    return str(value).lower() if isinstance(value, bool) else str(value) or "(empty)"


def _allowed(key: Key) -> str:
    if key.choices:
        return ", ".join(str(choice) or "(empty)" for choice in key.choices)
    if key.least is None and key.most is None:
        return ""
    low = "" if key.least is None else f"≥ {key.least:g}"
    high = "" if key.most is None else f"≤ {key.most:g}"
    return " and ".join(part for part in (low, high) if part)


def markdown() -> str:
    """All keys as one Markdown page."""
    lines = [
        "# Configuration keys",
        "",
        "Set them in an experiment file or as `--config.KEY=VALUE`; tuples are written `a,b`.",
        "This page is printed by `python -m megan_jax.config_docs`.",
    ]
    for section, keys in SECTIONS.items():
        lines += ["", f"## {section or 'general'}", "", "| key | default | allowed | |"]
        lines.append("|---|---|---|---|")
        for name, key in keys.items():
            full = f"{section}.{name}" if section else name
            cells = (f"`{full}`", _shown(key.default), _allowed(key), key.help)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown())
