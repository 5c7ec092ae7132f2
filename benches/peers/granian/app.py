"""An empty RSGI application; its body is the process that answers."""
import os


class App:
    def __rsgi_init__(self, _loop):
        path = os.environ.get("PEERS_READY")
        if path:
            with open(path, "a") as ready:
                ready.write(f"{os.getpid()}\n")

    async def __rsgi__(self, _scope, proto):
        proto.response_str(200, [("content-type", "text/plain")], f"{os.getpid()}\n")


app = App()
