"""May the next phase start? Checks that measure, thresholds that are data, gates that judge what was recorded."""
