"""Which sockets a process opens, and its children."""

import time

import psutil


def watch(process):
    """Status, own and other address of every internet socket that was there at some moment until the process ended."""
    seen = set()
    while process.poll() is None:
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            break
        for each in tree:
            try:
                connections = each.net_connections(kind="inet")
            except psutil.NoSuchProcess:
                continue
            seen |= {
                (c.status, c.laddr and c.laddr.ip, c.raddr and c.raddr.ip, c.laddr and c.laddr.port)
                for c in connections
            }
        time.sleep(0.1)
    process.wait()
    return seen
