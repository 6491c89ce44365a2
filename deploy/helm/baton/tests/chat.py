"""One chat with the service at URL: fails unless it is answered with text within five minutes."""

import json
import os
import sys
import time
import urllib.error
import urllib.request

URL = os.environ["URL"]
WITHIN_S = 300


def answer():
    body = {
        "model": "baton-tiny",
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 16,
    }
    request = urllib.request.Request(
        f"{URL}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def main():
    until = time.monotonic() + WITHIN_S
    while True:
        try:
            said = answer()
            break
        except urllib.error.HTTPError as error:
            problem = f"{error}: {error.read(500).decode(errors='replace')}"
        except OSError as error:
            problem = str(error)
        if time.monotonic() > until:
            sys.exit(f"no answer from {URL}: {problem}")
        time.sleep(2)
    text = said["choices"][0]["message"]["content"]
    usage = said["usage"]
    print(f"{URL} answers {text!r}, usage {usage}")
    if not text or not usage["completion_tokens"]:
        sys.exit("the answer is empty")


main()
