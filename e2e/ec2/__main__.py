"""python -m ec2 --bind ADDRESS --port PORT [--instance-hook PATH] [--state-dir DIR] [--console-log PATH]"""

from __future__ import annotations

import argparse
import pathlib
import signal
import threading

from .server import serve


def main() -> None:
    parser = argparse.ArgumentParser(prog="ec2", description="The lab's EC2, SSM, SQS, IAM, STS and Pricing.")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on (default %(default)s)")
    parser.add_argument("--port", type=int, default=4566, help="0 picks a free one (default %(default)s)")
    parser.add_argument("--instance-hook", help="program run as `PATH instance boot|end ID` with the event on stdin")
    parser.add_argument("--state-dir", type=pathlib.Path, default=pathlib.Path("ec2-state"), help="where hook logs go (default %(default)s)")
    parser.add_argument("--console-log", help="where an instance writes its console, with {id} in place of its id")
    args = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve(args.bind, args.port, args.instance_hook, args.state_dir, args.console_log)
    print(f"ec2 http://{args.bind}:{server.server_port}", flush=True)
    stop.wait()
    server.shutdown()


if __name__ == "__main__":
    main()
