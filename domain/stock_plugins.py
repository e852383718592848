"""The plugins every ledger begins with (data.md 11.4, plugins.md 9).

`[name]` in a command means a runner that is built in. Only data: how they work is elsewhere.
"""

from typing import Any

from domain.facts import Json


def _param(type: str, id: str, title: str, value: Any, **more: Any) -> Json:
    return {"type": type, "id": id, "title": title, "value": value} | more


_SHELL: Json = {
    "id": "shellplug",
    "title": "Shell Script",
    "command": "[shell-plugin]",
    "kill": "all",
    "icon": "console",
    "params": [
        _param(
            "code",
            "script",
            "Script Source",
            "#!/bin/sh\n\n# Enter your shell script code here\n",
            required=True,
            locked=True,
        ),
        _param("checkbox", "annotate", "Add Date/Time Stamps to Log", False),
    ],
}

_TEST: Json = {
    "id": "testplug",
    "title": "Test Plugin",
    "command": "[test-plugin]",
    "kill": "parent",
    "icon": "test-tube",
    "params": [
        _param(
            "text",
            "duration",
            "Test Duration",
            "60",
            required=True,
            caption="Seconds, or a random value between two: 5-10.",
        ),
        _param(
            "select", "action", "Simulate Result", "Success, Error, Warning, Critical, Crash, Abort"
        ),
        _param("textarea", "custom", "Custom Data", "", caption="Passed on as output data."),
        _param("checkbox", "burn", "Burn Memory/CPU", False),
        _param("checkbox", "network", "Generate Network Traffic", False),
        _param("checkbox", "upload", "Upload Sample File", False),
    ],
}

_HTTP: Json = {
    "id": "httpplug",
    "title": "HTTP Request",
    "command": "[http-plugin]",
    "kill": "parent",
    "icon": "web",
    "params": [
        _param("select", "method", "Method", "GET, HEAD, POST, PUT, DELETE"),
        _param("textarea", "url", "URL", "", required=True, locked=True),
        _param("textarea", "headers", "Request Headers", "", caption="One per line: Name: value"),
        _param("code", "data", "Request Body", ""),
        _param("text", "timeout", "Timeout", "30", caption="Seconds to the first byte."),
        _param("text", "idle_timeout", "Idle Timeout", "30", caption="Seconds without a byte."),
        _param("text", "connect_timeout", "Connect Timeout", "10", caption="Seconds."),
        _param("text", "success_match", "Success Match", ""),
        _param("text", "error_match", "Error Match", ""),
        _param("checkbox", "follow", "Follow Redirects", False),
        _param("checkbox", "download", "Download Response", False),
        _param("text", "filename", "File Name", "", caption="For a downloaded response."),
        _param("checkbox", "ssl_cert_bypass", "SSL Cert Bypass", False),
    ],
}

_DOCKER: Json = {
    "id": "dockerplug",
    "title": "Docker Container",
    "command": "[docker-plugin]",
    "kill": "all",
    "runner": True,
    "icon": "docker",
    "params": [
        _param("text", "image_name", "Image Name", "", required=True, locked=True),
        _param("text", "image_ver", "Image Version", "latest", locked=True),
        _param("text", "cont_name", "Container Name", "jobledger-job-{{id}}"),
        _param("text", "cont_cpus", "CPU Limit", "0", caption="Cores; 0 for no limit."),
        _param("text", "cont_mem", "Memory Limit", "0", caption="As in 512m; 0 for no limit."),
        _param("text", "cont_net", "Network", ""),
        _param("text", "cont_extras", "Extra Options", "", locked=True),
        _param("text", "cont_cmd", "Container Command", "", locked=True),
        _param("select", "run_mode", "Run Mode", "Send Job JSON, Send Script Source"),
        _param("code", "script", "Script Source", "", locked=True),
        _param("checkbox", "cont_init", "Use Init Process", True),
        _param("checkbox", "cont_rm", "Remove Container Afterwards", True),
        _param("checkbox", "verbose", "Verbose Log", False),
    ],
}

_HOOK: Json = {
    "id": "hookplug",
    "title": "Fire Web Hook",
    "command": "[hook-plugin]",
    "kill": "parent",
    "runner": True,
    "icon": "webhook",
    "params": [
        _param("system", "web_hook", "Web Hook", "", list_id="web_hooks", required=True),
        _param("textarea", "text", "Custom Text", ""),
    ],
}

STOCK_PLUGINS: tuple[Json, ...] = tuple(
    {"type": "event", "enabled": True, "stock": True, "runner": False, "script": "", "notes": ""}
    | plugin
    for plugin in (_SHELL, _TEST, _HTTP, _DOCKER, _HOOK)
)
"""Records without what the server signs them with."""
