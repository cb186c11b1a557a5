"""The checks, a file a family. Each measures and tells; whether that is enough, the phase's thresholds say."""
