"""Communication benchmarks in OSU's form: functions that return figures; printing and files stand apart."""
