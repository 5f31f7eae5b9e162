"""Serves the part of Qdrant's REST API that Atlas uses, on Qdrant's own engine.

The engine is Qdrant Edge, the storage and search code of the Qdrant server as a library; requests
are checked by the models that Qdrant generates from its OpenAPI document, which refuse unknown
fields. What is not Qdrant's here is the HTTP between the two: no replicas, no shards, no strict
mode. Data lives in the directory that --data names, or in a temporary one that is gone at the end.

    python3 -m venv venv && venv/bin/pip install qdrant-edge-py==0.9.0 qdrant-client==1.20.0
    venv/bin/python edge.py 127.0.0.1:6333 [API_KEY] [--data DIRECTORY]

Then ATLAS_TEST_QDRANT=http://127.0.0.1:6333 go test ./internal/source/qdrant/...
"""

import argparse
import http.server
import json
import pathlib
import re
import shutil
import signal
import tempfile
import threading
import time
import urllib.parse
import uuid

import pydantic
import qdrant_client.http.models as rest
import qdrant_edge as edge

# The version of the server whose REST models check the requests.
VERSION = "1.17.0"


class Refused(Exception):
    def __init__(self, status, text):
        super().__init__(text)
        self.status, self.text = status, text


class Collection:
    """A collection lies in a directory: the shard, and a file that says how it was made."""

    def __init__(self, path, create, indexes=None):
        if not isinstance(create.vectors, rest.VectorParams):
            raise Refused(400, "Bad request: only one unnamed vector is served here")
        self.path, self.create, self.indexes, self.lock = path, create, indexes or {}, threading.Lock()
        hnsw = create.hnsw_config or rest.HnswConfigDiff()
        config = edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=create.vectors.size,
                distance=getattr(edge.Distance, create.vectors.distance.value),
            ),
            hnsw_config=edge.HnswIndexConfig(
                m=16 if hnsw.m is None else hnsw.m,
                ef_construct=hnsw.ef_construct or 100,
                full_scan_threshold=hnsw.full_scan_threshold or 10000,
                payload_m=hnsw.payload_m,
            ),
        )
        if indexes is None:
            path.mkdir(parents=True)
            self.shard = edge.EdgeShard.create(str(path / "shard"), config)
            self.keep()
        else:
            self.shard = edge.EdgeShard.load(str(path / "shard"), config)

    @classmethod
    def load(cls, path):
        kept = json.loads((path / "collection.json").read_text())
        return cls(path, rest.CreateCollection.model_validate(kept["create"]), kept["indexes"])

    def keep(self):
        kept = {"create": self.create.model_dump(mode="json", exclude_none=True), "indexes": self.indexes}
        (self.path / "collection.json.new").write_text(json.dumps(kept))
        (self.path / "collection.json.new").replace(self.path / "collection.json")

    def drop(self):
        self.shard.close()
        shutil.rmtree(self.path)

    def update(self, operation):
        with self.lock:
            try:
                self.shard.update(operation)
                if KEEP:
                    self.shard.flush()
            except Exception as e:  # the engine raises nothing finer
                raise Refused(400, f"Wrong input: {e}") from e
        return {"operation_id": 0, "status": "completed"}

    def info(self):
        info, hnsw = self.shard.info(), self.create.hnsw_config or rest.HnswConfigDiff()
        return {
            "status": "green",
            "optimizer_status": "ok",
            "points_count": info.points_count,
            "indexed_vectors_count": info.indexed_vectors_count,
            "segments_count": info.segments_count,
            "config": {
                "params": {
                    "vectors": self.create.vectors.model_dump(mode="json", exclude_none=True),
                    "shard_number": 1,
                    "replication_factor": 1,
                    "write_consistency_factor": 1,
                    "on_disk_payload": True,
                },
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
                | hnsw.model_dump(mode="json", exclude_none=True),
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
            },
            "payload_schema": self.indexes,
        }


COLLECTIONS = {}
DATA = None  # the directory, once the program runs
KEEP = False  # whether it is to outlive the program, however that ends


def body(model, raw):
    try:
        return model.model_validate_json(raw)
    except pydantic.ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise Refused(400, f"Format error in JSON body: {where}: {first['msg']}") from e


def collection(name):
    if name not in COLLECTIONS:
        raise Refused(404, f"Not found: Collection `{name}` doesn't exist!")
    return COLLECTIONS[name]


def conditions(list_or_one):
    if list_or_one is None:
        return None
    return [condition(c) for c in (list_or_one if isinstance(list_or_one, list) else [list_or_one])]


def condition(c):
    if isinstance(c, rest.Filter):
        return filters(c)
    if isinstance(c, rest.HasIdCondition):
        return edge.HasIdCondition({point_id(i) for i in c.has_id})
    if isinstance(c, rest.FieldCondition) and isinstance(c.match, rest.MatchValue):
        return edge.FieldCondition(c.key, match=edge.MatchValue(c.match.value))
    if isinstance(c, rest.FieldCondition) and isinstance(c.match, rest.MatchAny):
        return edge.FieldCondition(c.key, match=edge.MatchAny(c.match.any))
    raise Refused(400, f"Bad request: the condition {type(c).__name__} is not served here")


def filters(f):
    if f is None:
        return None
    if f.min_should is not None:
        raise Refused(400, "Bad request: min_should is not served here")
    return edge.Filter(must=conditions(f.must), should=conditions(f.should), must_not=conditions(f.must_not))


def point_id(i):
    if isinstance(i, int):
        return i
    try:
        return uuid.UUID(str(i))
    except ValueError as e:
        raise Refused(400, f"Format error in JSON body: value {i} is not a valid point ID") from e


def query(c, q):
    vector = q.query
    if isinstance(vector, rest.NearestQuery):
        vector = vector.nearest
    if vector is not None and not isinstance(vector, list):
        raise Refused(400, "Bad request: only a dense vector is served here")
    with_payload = q.with_payload
    if isinstance(with_payload, rest.PayloadSelectorInclude):
        with_payload = edge.PayloadSelector.Include(with_payload.include)
    try:
        found = c.shard.query(
            edge.QueryRequest(
                limit=10 if q.limit is None else q.limit,
                offset=q.offset or 0,
                query=None if vector is None else edge.Query.Nearest(vector, q.using),
                filter=filters(q.filter),
                with_payload=with_payload or False,
                params=edge.SearchParams(exact=True) if q.params is not None and q.params.exact else None,
            )
        )
    except Exception as e:
        if isinstance(e, Refused):
            raise
        raise Refused(400, f"Wrong input: {e}") from e
    out = []
    for p in found:
        one = {"id": str(p.id), "version": p.version, "score": p.score}
        if with_payload:
            one["payload"] = p.payload
        out.append(one)
    return {"points": out}


def put_collection(name, raw, _):
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", name):
        raise Refused(400, "Bad request: the name of a collection is letters, digits, - and _ here")
    create = body(rest.CreateCollection, raw)
    if name in COLLECTIONS:
        raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
    COLLECTIONS[name] = Collection(DATA / name, create)
    return True


def delete_collection(name, _raw, _):
    gone = COLLECTIONS.pop(name, None)
    if gone is not None:
        gone.drop()
    return gone is not None


def put_index(name, raw, _):
    c, want = collection(name), body(rest.CreateFieldIndex, raw)
    schema = want.field_schema
    if isinstance(schema, rest.KeywordIndexParams):
        params = edge.KeywordIndexParams(is_tenant=schema.is_tenant, enable_hnsw=schema.enable_hnsw)
    elif schema == rest.PayloadSchemaType.KEYWORD:
        params = edge.PayloadSchemaType.Keyword
    else:
        raise Refused(400, "Bad request: only keyword indexes are served here")
    done = c.update(edge.UpdateOperation.create_field_index(want.field_name, params))
    c.indexes[want.field_name] = {"data_type": "keyword", "points": 0}
    if isinstance(schema, rest.KeywordIndexParams):
        c.indexes[want.field_name]["params"] = schema.model_dump(mode="json", exclude_none=True)
    c.keep()
    return done


def put_points(name, raw, _):
    c, want = collection(name), body(rest.PointsList, raw)
    points = []
    for p in want.points:
        if not isinstance(p.vector, (list, dict)):
            raise Refused(400, "Bad request: only dense vectors are served here")
        points.append(edge.Point(point_id(p.id), p.vector, p.payload or {}))
    return c.update(edge.UpdateOperation.upsert_points(points))


def delete_points(name, raw, _):
    c, want = collection(name), json.loads(raw)
    if set(want) == {"points"}:
        ids = [point_id(i) for i in body(rest.PointIdsList, raw).points]
        return c.update(edge.UpdateOperation.delete_points(ids))
    return c.update(edge.UpdateOperation.delete_points_by_filter(filters(body(rest.FilterSelector, raw).filter)))


def scroll(name, raw, _):
    c, want = collection(name), body(rest.ScrollRequest, raw)
    found, after = c.shard.scroll(
        edge.ScrollRequest(
            offset=None if want.offset is None else point_id(want.offset),
            limit=10 if want.limit is None else want.limit,
            filter=filters(want.filter),
            with_payload=want.with_payload if want.with_payload is not None else True,
            with_vector=bool(want.with_vector),
        )
    )
    points = [{"id": str(p.id), "payload": p.payload} for p in found]
    return {"points": points, "next_page_offset": None if after is None else str(after)}


ROUTES = [
    ("GET", r"/collections", lambda _n, _r, _q: {"collections": [{"name": n} for n in COLLECTIONS]}),
    ("PUT", r"/collections/([^/]+)", put_collection),
    ("GET", r"/collections/([^/]+)", lambda n, _r, _q: collection(n).info()),
    ("DELETE", r"/collections/([^/]+)", delete_collection),
    ("GET", r"/collections/([^/]+)/exists", lambda n, _r, _q: {"exists": n in COLLECTIONS}),
    ("PUT", r"/collections/([^/]+)/index", put_index),
    ("PUT", r"/collections/([^/]+)/points", put_points),
    ("POST", r"/collections/([^/]+)/points/delete", delete_points),
    ("POST", r"/collections/([^/]+)/points/scroll", scroll),
    ("POST", r"/collections/([^/]+)/points/query", lambda n, r, _q: query(collection(n), body(rest.QueryRequest, r))),
    (
        "POST",
        r"/collections/([^/]+)/points/query/batch",
        lambda n, r, _q: [query(collection(n), q) for q in body(rest.QueryRequestBatch, r).searches],
    ),
]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes
    api_key = None

    def serve(self):
        begun = time.time()
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urllib.parse.urlsplit(self.path)
        if url.path in ("/", "/healthz", "/readyz", "/livez"):
            self.send(200, {"title": "qdrant - vector search engine", "version": VERSION})
            return
        if self.api_key and self.headers.get("api-key") != self.api_key:
            self.send(401, "Must provide an API key or an Authorization bearer token", "text/plain")
            return
        for method, pattern, fn in ROUTES:
            m = re.fullmatch(pattern, url.path)
            if m and method == self.command:
                name = urllib.parse.unquote(m.group(1)) if m.groups() else ""
                try:
                    answer = {"result": fn(name, raw, url.query), "status": "ok", "time": time.time() - begun}
                    self.send(200, answer)
                except Refused as e:
                    self.send(e.status, {"status": {"error": e.text}, "time": time.time() - begun})
                return
        self.send(404, "", "text/plain")

    do_GET = do_PUT = do_POST = do_DELETE = serve

    def send(self, status, answer, kind="application/json"):
        data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    global DATA, KEEP
    parser = argparse.ArgumentParser(description="Qdrant's engine behind a part of its REST API")
    parser.add_argument("address", help="host:port to listen on")
    parser.add_argument("api_key", nargs="?", help="asked for in the header api-key")
    parser.add_argument("--data", help="directory to keep collections in; default: a temporary one")
    args = parser.parse_args()
    temporary = None if args.data else tempfile.TemporaryDirectory()
    DATA, KEEP = pathlib.Path(args.data or temporary.name), args.data is not None
    DATA.mkdir(parents=True, exist_ok=True)
    for kept in sorted(DATA.glob("*/collection.json")):
        COLLECTIONS[kept.parent.name] = Collection.load(kept.parent)
    host, port = args.address.rsplit(":", 1)
    Handler.api_key = args.api_key
    server = Server((host, int(port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    for c in COLLECTIONS.values():
        c.shard.close()


if __name__ == "__main__":
    main()
