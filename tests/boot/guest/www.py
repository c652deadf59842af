"""A web server in the guest, on a line that is bad: of a large file it sends a quarter, and then what it is told comes.

Arguments: a folder, a port, and what comes after each quarter, in turn: `cut`, and for all that follow `stall` or `on`.
"""

import http.server
import re
import sys
import time
import zlib
from pathlib import Path

LARGE = 1 << 20
FOLDER, PORT, FAULTS = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = FOLDER / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(wanted[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{zlib.crc32(data)}"')
        self.send_header("Content-Length", str(len(data) - begin))
        if wanted:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if len(data) < LARGE:
            self.wfile.write(data[begin:])
            return
        fault = FAULTS.pop(0) if len(FAULTS) > 1 else FAULTS[0]
        print(fault, begin, len(data), flush=True)
        if fault == "on":
            self.wfile.write(data[begin:])
            return
        self.wfile.write(data[begin : begin + len(data) // 4])
        while fault == "stall":
            time.sleep(1)


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
