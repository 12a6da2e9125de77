"""Moves a folder with the AWS CRT's own S3 client, CRC-64/NVME on.

crt.py up|down FOLDER ENDPOINT SIZE CERTIFICATE NAMES
"""
import os
import sys
import threading

from awscrt import auth, http, io, s3

way, folder, endpoint, size, certificate, names = sys.argv[1:7]
group = io.EventLoopGroup()
bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
credentials = auth.AwsCredentialsProvider.new_static("BENCH", "bench")
tls = None
if certificate:
    options = io.TlsContextOptions()
    with open(certificate, "rb") as file:
        options.override_default_trust_store(file.read())
    tls = io.ClientTlsContext(options).new_connection_options()
    tls.set_server_name("localhost")
mode = s3.S3RequestTlsMode.ENABLED if certificate else s3.S3RequestTlsMode.DISABLED
client = s3.S3Client(bootstrap=bootstrap, region="us-east-1", credential_provider=credentials, tls_mode=mode, tls_connection_options=tls)
authority = endpoint.split("://")[1]
slots = threading.Semaphore(256)
failures = []


def begin(name):
    path = os.path.join(folder, name)
    headers = http.HttpHeaders([("host", authority)])
    if way == "up":
        headers.add("content-length", size)
        request = http.HttpRequest("PUT", "/bench/up/" + name, headers)
        sums = s3.S3ChecksumConfig(algorithm=s3.S3ChecksumAlgorithm.CRC64NVME, location=s3.S3ChecksumLocation.TRAILER)
        what, files = s3.S3RequestType.PUT_OBJECT, {"send_filepath": path}
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        request = http.HttpRequest("GET", "/bench/in/" + name, headers)
        sums = s3.S3ChecksumConfig(validate_response=True)
        what, files = s3.S3RequestType.GET_OBJECT, {"recv_filepath": path}

    def done(error=None, **_):
        if error:
            failures.append(error)
        slots.release()

    return client.make_request(request=request, type=what, checksum_config=sums, on_done=done, **files)


with open(names) as file:
    wanted = file.read().split("\n")
running = []
for name in wanted:
    slots.acquire()
    running.append(begin(name))
    if len(running) > 512:
        running.pop(0).finished_future.exception()
for request in running:
    request.finished_future.exception()
if failures:
    sys.exit(f"{len(failures)} failed: {failures[0]}")
