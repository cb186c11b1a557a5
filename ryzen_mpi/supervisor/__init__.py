"""What runs around a job and brings it back: attempts, heartbeats and leases, and what is decided from them."""
