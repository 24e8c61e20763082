"""Every technique on every backend against its float64 result, within derived error bounds."""
