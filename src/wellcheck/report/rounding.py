"""Numbers as the report shows them; what is unknown is a dash."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 → 12.3 %."""
    return "–" if value is None else f"{100 * value:.{digits}f}\u202f%"  # a narrow space that does not break


def figure(value: float | None) -> str:
    """A number with three decimals."""
    return "–" if value is None else f"{value:.3f}"


def chance(value: float | None) -> str:
    """A p-value: 0.0123 → 0.012, 4.2e-15 → 4·10⁻¹⁵."""
    if value is None:
        return "–"
    if value >= 0.001:
        return f"{value:.2g}"
    if value < 1e-300:
        return "< 10⁻³⁰⁰"
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"
