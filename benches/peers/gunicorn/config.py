"""Gunicorn's configuration: nothing but the hook that says when a worker is about to accept."""
import os


def post_worker_init(_worker):
    path = os.environ.get("PEERS_READY")
    if path:
        with open(path, "a") as ready:
            ready.write(f"{os.getpid()}\n")
