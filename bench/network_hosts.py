"""Hosts on one machine: network namespaces joined by a bridge, each with a link of its own and, if wanted, limited
bandwidth (Linux, as root: ip, tc). mpirun reaches them through a launch agent in place of ssh."""

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

AGENT = """#!/bin/sh
# mpirun calls: agent HOST COMMAND...; a host is a namespace with a host name of its own, by which Open MPI's daemons name
# the files that they share with their ranks: up to its first dot.
number=$(echo "$1" | cut -d. -f4)
shift
exec ip netns exec "{prefix}$number" unshare --uts sh -c "hostname host-$number; $*"
"""


def refusal():
    """Why there can be no such hosts here; None where there can."""
    for tool in ("ip", "tc", "unshare", "mpirun"):
        if shutil.which(tool) is None:
            return f"{tool} is missing"
    if os.geteuid() != 0:
        return "needs root"
    name = f"rondo-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"ip netns add: {tried.stderr.strip()}"
    limited = subprocess.run(["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1gbit",
                              "burst", "256kb", "latency", "50ms"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None if limited.returncode == 0 else f"tc: {limited.stderr.strip()}"


def ip(*arguments):
    subprocess.run(["ip", *map(str, arguments)], check=True)


class NetworkHosts:
    """`count` hosts 10.77.0.1, .2, ...; a context manager."""

    def __init__(self, count):
        self.count = count
        self.prefix = f"rondo{os.getpid()}-"
        self.bridge = f"rd{os.getpid() % 100000}"

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="rondo-hosts-"))
        try:
            ip("link", "add", self.bridge, "type", "bridge")
            ip("link", "set", self.bridge, "up")
            for host in range(1, self.count + 1):
                outside, inside = f"{self.bridge}o{host}", f"{self.bridge}i{host}"
                ip("netns", "add", self.name(host))
                ip("link", "add", outside, "type", "veth", "peer", "name", inside)
                ip("link", "set", inside, "netns", self.name(host))
                ip("link", "set", outside, "master", self.bridge)
                ip("link", "set", outside, "up")
                ip("-n", self.name(host), "link", "set", "lo", "up")
                ip("-n", self.name(host), "addr", "add", f"10.77.0.{host}/24", "dev", inside)
                ip("-n", self.name(host), "link", "set", inside, "up")
        except BaseException:
            self.__exit__()
            raise
        agent = self.folder / "agent"
        agent.write_text(AGENT.format(prefix=self.prefix))
        agent.chmod(agent.stat().st_mode | stat.S_IXUSR)
        (self.folder / "hosts").write_text("".join(f"10.77.0.{h} slots=1\n" for h in range(1, self.count + 1)))
        return self

    def __exit__(self, *_):
        for host in range(1, self.count + 1):
            subprocess.run(["ip", "netns", "del", self.name(host)], capture_output=True)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def name(self, host):
        return f"{self.prefix}{host}"

    def limit(self, gigabits):
        """Every host sends, and is sent, at most so much a second; None for no limit."""
        for host in range(1, self.count + 1):
            for namespace, device in ((("-n", self.name(host)), f"{self.bridge}i{host}"), ((), f"{self.bridge}o{host}")):
                subprocess.run(["tc", *namespace, "qdisc", "del", "dev", device, "root"], capture_output=True)
                if gigabits is not None:
                    burst = max(256, int(gigabits * 1e9 / 8 * 0.004 / 1024))  # what a timer of 4 ms must let through
                    subprocess.run(["tc", *namespace, "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{gigabits * 1000:g}mbit",
                                    "burst", f"{burst}kb", "latency", "100ms"], check=True)

    def mpirun(self, ranks, command, environment=()):
        """The command line that runs `ranks` ranks of `command`, one a host in turn."""
        exported = [word for variable in environment for word in ("-x", variable)]
        return ["ip", "netns", "exec", self.name(1), "unshare", "--uts", "sh", "-c", 'hostname host-1; exec "$0" "$@"',
                "mpirun", "--allow-run-as-root", "-n", str(ranks), "--hostfile", str(self.folder / "hosts"), "--bind-to", "none",
                "--mca", "plm_rsh_agent", str(self.folder / "agent"), "--mca", "btl", "tcp,self",
                "--mca", "btl_tcp_if_include", "10.77.0.0/24", "--mca", "oob_tcp_if_include", "10.77.0.0/24",
                *exported, *map(str, command)]
