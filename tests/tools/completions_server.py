"""A small OpenAI-compatible server: POST /v1/completions with a stream of events.

Run as a process: `python completions_server.py [--key KEY] [--certificate PEM --private-key PEM]`;
it prints its port. The next word of a text is the one that most often followed its last word in
`CORPUS`. A prompt may begin with an order:

- `!status N WORDS`: answer with HTTP status N, and the words as the error's message;
- `!pause S WORDS`: continue the words, with a pause of S seconds before each new one;
- `!event TEXT`: send one event of this text, in which `~` ends a line, then [DONE];
- `!cut WORDS`: close the connection after the first event;
- `!html`: send a page instead of a stream;
- `!kind TEXT`: name this text as the type of the answer;
- `!garbage`: send bytes that are not HTTP.

GET /words returns the number of generated words, and GET /request the last request.
"""

import argparse
import collections
import itertools
import json
import math
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CORPUS = (
    "the sea is blue . the grass is green . the sea is wide and the sea is blue . 天気 は 良い ."
)
END = "."


def _followers():
    followers = collections.defaultdict(collections.Counter)
    words = CORPUS.split()
    for word, following in itertools.pairwise(words):
        followers[word][following] += 1
    return followers


FOLLOWERS = _followers()


def next_word(word):
    """Return the likeliest next word and its log-probability; the end for an unknown word."""
    counts = FOLLOWERS.get(word)
    if not counts:
        return END, 0.0
    best = max(sorted(counts), key=counts.__getitem__)
    return best, math.log(counts[best] / counts.total())


def answer_to(prompt, most):
    """Return the words of an answer, their log-probabilities, and the reason of its end."""
    words, logprobs, last = [], [], prompt.split()[-1]
    while len(words) < most:
        last, logprob = next_word(last)
        words.append(f" {last}")
        logprobs.append(logprob)
        if last == END:
            return words, logprobs, "stop"
    return words, logprobs, "length"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        content = {"/words": self.server.words, "/request": self.server.request}
        self._send_json(200, content[self.path])

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.request = request
        if self.path != "/v1/completions":
            return self._refuse(404, f"no {self.path} here")
        key = self.server.key
        if key and self.headers["authorization"] != f"Bearer {key}":
            return self._refuse(401, f"{self.headers['authorization']} is not the key")
        prompts = request["prompt"]
        prompts = [prompts] if isinstance(prompts, str) else prompts
        order, _, rest = prompts[0].partition(" ")
        if order.startswith("!"):
            return getattr(self, f"_{order[1:]}")(rest, request)
        return self._stream(prompts, request)

    def _refuse(self, status, words):
        self._send_json(status, {"error": {"message": words, "code": status}})

    def _send_json(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin(self, kind="text/event-stream"):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("connection", "close")
        self.end_headers()

    def _stream(self, prompts, request, pause_s=0.0, most_events=None):
        self._begin()
        answers = [answer_to(prompt, request["max_tokens"]) for prompt in prompts]
        count = 0
        for step in range(max(len(words) for words, *_ in answers)):
            self.wfile.write(b": still here\n\n")
            for index, (words, logprobs, reason) in enumerate(answers):
                if step >= len(words):
                    continue
                time.sleep(pause_s)
                self.server.count_word()
                choice = {
                    "index": index,
                    "text": words[step],
                    "logprobs": {"tokens": [words[step]], "token_logprobs": [logprobs[step]]},
                    "finish_reason": reason if step == len(words) - 1 else None,
                }
                self._send(json.dumps({"choices": [choice], "model": request["model"]}))
                count += 1
                if count == most_events:
                    return
        self._send(json.dumps({"choices": [], "usage": {"completion_tokens": count}}))
        self._send("[DONE]")

    def _send(self, text):
        self.wfile.write(b"data: " + text.encode() + b"\n\n")
        self.wfile.flush()

    def _status(self, rest, request):
        status, _, words = rest.partition(" ")
        self._refuse(int(status), words)

    def _pause(self, rest, request):
        pause, _, words = rest.partition(" ")
        self._stream([words], request, pause_s=float(pause))

    def _event(self, rest, request):
        self._begin()
        self.wfile.write(rest.replace("~", "\n").encode() + b"\n\ndata: [DONE]\n\n")

    def _cut(self, rest, request):
        self._stream([rest], request, most_events=1)

    def _kind(self, rest, request):
        self._begin(rest)

    def _html(self, rest, request):
        self._begin("text/html")
        self.wfile.write(b"<html>hello</html>")

    def _garbage(self, rest, request):
        self.wfile.write(b"\x00\x01 hello\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, key):
        super().__init__(("127.0.0.1", 0), Handler)
        self.key, self.words, self.request = key, 0, None
        self._lock = threading.Lock()

    def count_word(self):
        with self._lock:
            self.words += 1

    def handle_error(self, request, client_address):
        pass  # a caller that left


def main():
    parser = argparse.ArgumentParser()
    for name in ("--key", "--certificate", "--private-key"):
        parser.add_argument(name)
    flags = parser.parse_args()
    server = Server(flags.key)
    if flags.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(flags.certificate, flags.private_key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
