"""What pytest must not collect: the scripts, which would run when they are imported."""

collect_ignore = ["kinds"]
