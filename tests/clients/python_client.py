"""redis-py or valkey-py with its default settings: python_client.py MODULE HOST PORT PROTOCOL basics|count."""

import importlib
import json
import sys
import threading
import time

module = importlib.import_module(sys.argv[1])
name, host, port, protocol, what = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
prefix = f"{name}:{protocol}:"
client_class = module.Redis if name == "redis" else module.Valkey


def is_equal(got, expected):
    assert got == expected, f"{got!r} is not {expected!r}"


def raises(error, part, call):
    try:
        got = call()
    except error as e:
        assert part in str(e), e
    else:
        raise AssertionError(f"{got!r} and no {error.__name__}")


def values(client):
    key = prefix + "value"
    assert client.ping()
    for value in [b"text", b"", bytes(range(256)) * 8, b"\r\n$-1\r\n", b"x" * 500_000]:
        assert client.set(key, value)
        is_equal(client.get(key), value)
        is_equal(client.strlen(key), len(value))
    is_equal(client.get(prefix + "absent"), None)
    binary = prefix.encode() + bytes(range(256))
    assert client.set(binary, 7)
    is_equal(client.mget(key, binary, prefix + "absent"), [value, b"7", None])
    is_equal(client.incrby(binary, -9), -2)
    is_equal(client.set(key, "no", nx=True), None)
    is_equal(client.set(key, "new", xx=True, get=True), value)
    is_equal(client.append(key, "er"), 5)
    is_equal(client.getset(key, "newest"), b"newer")
    is_equal(client.type(key), "string" if client.get_encoder().decode_responses else b"string")
    is_equal(client.delete(key, binary), 2)
    assert client.mset({prefix + "m1": 1, prefix + "m2": 2})
    is_equal(client.exists(prefix + "m1", prefix + "m2", prefix + "m3"), 2)


def expiry(client):
    key = prefix + "soon"
    assert client.set(key, 1, ex=100)
    assert 0 < client.ttl(key) <= 100
    assert client.pexpire(key, 50_000) and 0 < client.pttl(key) <= 50_000
    assert client.persist(key)
    is_equal(client.ttl(key), -1)
    assert client.pexpire(key, 1)
    deadline = time.monotonic() + 20
    while client.get(key) is not None:
        assert time.monotonic() < deadline, "it does not expire"


def pipelines(client):
    key = prefix + "piped"
    with client.pipeline(transaction=False) as pipe:
        for n in range(1000):
            pipe.set(key, n).get(key)
        is_equal(pipe.execute(), [each for n in range(1000) for each in (True, str(n).encode())])
    with client.pipeline() as pipe:
        is_equal(pipe.set(key, 1).incr(key).get(key).execute(), [True, 2, b"2"])
        pipe.watch(key)
        is_equal(pipe.get(key), b"2")
        pipe.multi()
        client.set(key, "another's")
        pipe.set(key, "mine")
        raises(module.WatchError, "", pipe.execute)
    is_equal(client.get(key), b"another's")
    is_equal(client.transaction(lambda pipe: (pipe.get(key), pipe.multi(), pipe.set(key, 1)), key), [True])


def scans(client):
    keys = {f"{prefix}scan:{n}".encode() for n in range(300)}
    client.mset(dict.fromkeys(keys, "v"))
    is_equal(set(client.scan_iter(match=prefix + "scan:*", count=40)), keys)
    is_equal(set(client.keys(prefix + "scan:*")), keys)
    assert client.dbsize() >= 300


def errors(client):
    key = prefix + "text"
    client.set(key, "text")
    raises(module.ResponseError, "not an integer", lambda: client.incr(key))
    raises(module.ResponseError, "unknown command", lambda: client.execute_command("NOSUCH", 1))
    raises(module.ResponseError, "wrong number", lambda: client.execute_command("GET"))
    is_equal(client.get(key), b"text")


def basics():
    client = client_class(host=host, port=port, protocol=protocol)
    for part in [values, expiry, pipelines, scans, errors]:
        part(client)
    assert client.info()["redis_version"] and client.info("replication")["role"] in ("master", "slave")
    assert client.client_id() > 0 and client.time() and client.config_get("maxmemory")
    client.close()
    text = client_class(host=host, port=port, protocol=protocol, decode_responses=True)
    assert text.set(prefix + "ü", "größer")
    is_equal(text.get(prefix + "ü"), "größer")


def count():
    """Counts until its input ends, plain and under ONCE; prints how often it was answered, and how often not."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    client = client_class(host=host, port=port, protocol=protocol)
    told = {"plain": 0, "once": 0, "errors": 0}
    step = 0
    while not ended.is_set():
        step += 1
        try:
            client.incr(prefix + "plain")
            told["plain"] += 1
        except module.RedisError if name == "redis" else module.ValkeyError:
            told["errors"] += 1
        while True:
            try:
                client.execute_command("ONCE", f"{prefix}{step}", "INCR", prefix + "once")
                told["once"] += 1
                break
            except module.RedisError if name == "redis" else module.ValkeyError:
                told["errors"] += 1
    print(json.dumps(told))


{"basics": basics, "count": count}[what]()
