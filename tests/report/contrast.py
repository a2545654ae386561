"""Contrast of two colours (WCAG 2): 3 to 1 for graphical objects, 4.5 to 1 for text."""

import re


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, rgb(r, g, b), black or white, from 0 to 1."""
    colour = {"black": "#000000", "white": "#ffffff"}.get(colour, colour)
    found = re.findall(r"\d+", colour) if colour.startswith("rgb") else [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    channels = [int(channel) / 255 for channel in found]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
