PRAGMA journal_mode = WAL;
PRAGMA application_id = 1416589929;
PRAGMA user_version = 3;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE calls (
    id INTEGER NOT NULL,
    time INTEGER NOT NULL,
    caller TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    model TEXT NOT NULL,
    upstream TEXT NOT NULL,
    upstream_model TEXT NOT NULL,
    "key" TEXT NOT NULL,
    status INTEGER NOT NULL,
    error TEXT,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    total_tokens INTEGER NOT NULL,
    estimated INTEGER NOT NULL,
    seconds REAL NOT NULL,
    first_event_seconds REAL,
    attempts INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO "calls" VALUES(1,1795262400000,'alice','embeddings','jina-embeddings-v3','jina','jina-embeddings-v3','jina',200,NULL,1000,0,1000,0,0.5,NULL,1,'00000000000000000000000000000001');
INSERT INTO "calls" VALUES(2,1795262401500,'open','chat','jina-deepsearch-v1','jina','jina-deepsearch-v1','jina-2',499,NULL,12,34,9876543210,1,60.25,0.125,3,'00000000000000000000000000000002');
INSERT INTO "calls" VALUES(3,1795348800000,'bob','rerank','reranker''s 鳥居','aihubmix','jina-reranker-m0','aihubmix',502,'upstream_error',0,0,0,0,1.000001,NULL,2,'00000000000000000000000000000003');
INSERT INTO "calls" VALUES(4,1795348800000,'bob','rerank','reranker''s 鳥居','jina','jina-reranker-m0','jina',200,NULL,7,0,7,0,2.0,NULL,1,'00000000000000000000000000000003');
CREATE TABLE key_rests (
    upstream TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    alias TEXT NOT NULL,
    cause TEXT NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (upstream, fingerprint)
)
 WITHOUT ROWID;
INSERT INTO "key_rests" VALUES('aihubmix','0000000000000000000000000000000000000000000000000000000000000000','aihubmix','rate limited',1795300001.0);
INSERT INTO "key_rests" VALUES('jina','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff','jina-2','account empty',1795300000.5);
CREATE INDEX calls_by_time ON calls (time);
COMMIT;
