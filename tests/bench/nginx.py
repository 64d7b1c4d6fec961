"""nginx as a byte relay: one process, nothing buffered, nothing logged."""

import shutil
import subprocess
from pathlib import Path

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{upstream_port};
            proxy_http_version 1.1;
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
}}
"""


def program() -> str | None:
    """Where nginx is, or None; Debian hides it from those who are not root."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def version() -> str | None:
    """What nginx calls itself, such as `nginx/1.22.1`, or None."""
    if (found := program()) is None:
        return None
    said = subprocess.run([found, "-v"], capture_output=True, text=True, check=False)
    return said.stderr.strip().rpartition(" ")[2] or None


def configuration(port: int, upstream_port: int, directory: Path) -> str:
    """Write the configuration of a relay between two ports whose files are in a directory."""
    return _CONFIGURATION.format(
        port=port, upstream_port=upstream_port, directory=directory, connections=4_096
    )
