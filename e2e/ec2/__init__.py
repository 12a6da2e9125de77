"""The lab's EC2: moto in process, with what moto lacks. README.md says what that is and how to steer it.

Reading order: `state` (what the lab knows), `api` (every EC2 call passes here), `launch` and `fleet`, then `control`.
moto is extended at three points, all in `server.py`: the backend class, the response class, and who may call.
"""

ACCOUNT = "123456789012"
REGION = "us-east-1"
CLUSTER = "lab"
