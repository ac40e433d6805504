"""`python -m tests.docs.listening PORT`: the addresses that somebody listens on at a port, one a line."""

from __future__ import annotations

import sys

import psutil

if __name__ == "__main__":
    found = {
        c.laddr.ip for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr.port == int(sys.argv[1])
    }
    print("\n".join(sorted(found)))
