"""What keeps a run from failing quietly: `preflight` before its first step, `watch` in each."""
