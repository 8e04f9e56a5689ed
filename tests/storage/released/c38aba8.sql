PRAGMA journal_mode = WAL;
PRAGMA application_id = 1416589929;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0004');
CREATE TABLE alerts (
	scope TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	filter TEXT NOT NULL, 
	since INTEGER NOT NULL, 
	amount INTEGER NOT NULL, 
	percent INTEGER NOT NULL, 
	time INTEGER NOT NULL, 
	PRIMARY KEY (scope, unit, filter, since, amount, percent)
)
 WITHOUT ROWID

;
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	time INTEGER NOT NULL, 
	actor TEXT NOT NULL, 
	address TEXT, 
	action TEXT NOT NULL, 
	object_id TEXT NOT NULL, 
	changes TEXT NOT NULL, 
	PRIMARY KEY (id)
);
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
    request_id TEXT NOT NULL, kind TEXT DEFAULT 'call' NOT NULL, requests INTEGER DEFAULT '1' NOT NULL, key_id TEXT, team TEXT, model_id TEXT, stream INTEGER DEFAULT '0' NOT NULL, cached_tokens INTEGER DEFAULT '0' NOT NULL, cost INTEGER, price_date TEXT, user TEXT, tag TEXT, run_id TEXT,
    PRIMARY KEY (id)
);
INSERT INTO "calls" VALUES(1,1795262400000,'alice','embeddings','jina-embeddings-v3','jina','jina-embeddings-v3','jina',200,NULL,1000,0,1000,0,0.5,NULL,1,'00000000000000000000000000000001','call',1,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(2,1795262401500,'open','chat','jina-deepsearch-v1','jina','jina-deepsearch-v1','jina-2',499,NULL,12,34,9876543210,1,60.25,0.125,3,'00000000000000000000000000000002','call',1,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(3,1795348800000,'bob','rerank','reranker''s 鳥居','aihubmix','jina-reranker-m0','aihubmix',502,'upstream_error',0,0,0,0,1.000001,NULL,2,'00000000000000000000000000000003','call',0,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "calls" VALUES(4,1795348800000,'bob','rerank','reranker''s 鳥居','jina','jina-reranker-m0','jina',200,NULL,7,0,7,0,2.0,NULL,1,'00000000000000000000000000000003','call',1,NULL,NULL,NULL,0,0,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE counters (
	scope TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	filter TEXT NOT NULL, 
	since INTEGER NOT NULL, 
	until INTEGER NOT NULL, 
	spent INTEGER NOT NULL, 
	held INTEGER NOT NULL, 
	PRIMARY KEY (scope, unit, filter, since, until)
)
 WITHOUT ROWID

;
CREATE TABLE holds (
	request_id TEXT NOT NULL, 
	process TEXT NOT NULL, 
	lost INTEGER, 
	body TEXT NOT NULL, 
	PRIMARY KEY (request_id)
)
 WITHOUT ROWID

;
CREATE TABLE idempotency (
	"key" TEXT NOT NULL, 
	request TEXT NOT NULL, 
	object_id TEXT NOT NULL, 
	time INTEGER NOT NULL, 
	PRIMARY KEY ("key")
)
 WITHOUT ROWID

;
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
CREATE TABLE keys (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	team TEXT, 
	created_at INTEGER NOT NULL, 
	expires_at INTEGER, 
	last_used_at INTEGER, 
	revoked_at INTEGER, 
	disabled INTEGER NOT NULL, 
	fields TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
)
 WITHOUT ROWID

;
CREATE TABLE management_keys (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	scope TEXT NOT NULL, 
	hash TEXT NOT NULL, 
	tail TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name), 
	UNIQUE (hash)
)
 WITHOUT ROWID

;
CREATE TABLE processes (
	id TEXT NOT NULL, 
	until INTEGER NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
CREATE TABLE refusals (
	minute INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	team TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	count INTEGER NOT NULL, 
	PRIMARY KEY (minute, key_id, team, reason)
)
 WITHOUT ROWID

;
CREATE TABLE rolled_days (
	day INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	team TEXT NOT NULL, 
	model TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	upstream TEXT NOT NULL, 
	caller TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	requests INTEGER NOT NULL, 
	prompt_tokens INTEGER NOT NULL, 
	completion_tokens INTEGER NOT NULL, 
	total_tokens INTEGER NOT NULL, 
	cached_tokens INTEGER NOT NULL, 
	cost INTEGER NOT NULL, 
	asked INTEGER NOT NULL, 
	cached INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	failed_asked INTEGER NOT NULL, 
	estimated INTEGER NOT NULL, 
	estimated_tokens INTEGER NOT NULL, 
	microseconds INTEGER NOT NULL, 
	PRIMARY KEY (day, key_id, team, model, endpoint, upstream, caller, "key")
)
 WITHOUT ROWID

;
CREATE TABLE rolled_users (
	day INTEGER NOT NULL, 
	user TEXT NOT NULL, 
	requests INTEGER NOT NULL, 
	prompt_tokens INTEGER NOT NULL, 
	completion_tokens INTEGER NOT NULL, 
	total_tokens INTEGER NOT NULL, 
	cached_tokens INTEGER NOT NULL, 
	cost INTEGER NOT NULL, 
	asked INTEGER NOT NULL, 
	PRIMARY KEY (day, user)
)
 WITHOUT ROWID

;
CREATE TABLE rollups (
	quarter INTEGER NOT NULL, 
	key_id TEXT NOT NULL, 
	team TEXT NOT NULL, 
	model TEXT NOT NULL, 
	endpoint TEXT NOT NULL, 
	upstream TEXT NOT NULL, 
	caller TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	requests INTEGER NOT NULL, 
	prompt_tokens INTEGER NOT NULL, 
	completion_tokens INTEGER NOT NULL, 
	total_tokens INTEGER NOT NULL, 
	cached_tokens INTEGER NOT NULL, 
	cost INTEGER NOT NULL, 
	asked INTEGER NOT NULL, 
	cached INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	failed_asked INTEGER NOT NULL, 
	estimated INTEGER NOT NULL, 
	estimated_tokens INTEGER NOT NULL, 
	microseconds INTEGER NOT NULL, 
	PRIMARY KEY (quarter, key_id, team, model, endpoint, upstream, caller, "key")
)
 WITHOUT ROWID

;
CREATE TABLE seconds (
	scope TEXT NOT NULL, 
	unit TEXT NOT NULL, 
	second INTEGER NOT NULL, 
	amount INTEGER NOT NULL, 
	PRIMARY KEY (scope, unit, second)
)
 WITHOUT ROWID

;
CREATE TABLE secrets (
	hash TEXT NOT NULL, 
	key_id TEXT NOT NULL, 
	tail TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	valid_until INTEGER, 
	PRIMARY KEY (hash)
)
 WITHOUT ROWID

;
CREATE TABLE state (
	name TEXT NOT NULL, 
	value INTEGER NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
CREATE TABLE teams (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	created_at INTEGER NOT NULL, 
	disabled INTEGER NOT NULL, 
	fields TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name)
)
 WITHOUT ROWID

;
CREATE INDEX calls_by_time ON calls (time);
CREATE INDEX calls_by_key ON calls (key_id, time) WHERE key_id IS NOT NULL;
CREATE INDEX calls_by_team ON calls (team, time) WHERE team IS NOT NULL;
CREATE INDEX calls_by_model ON calls (model_id, time) WHERE model_id IS NOT NULL;
CREATE INDEX calls_by_request ON calls (request_id);
CREATE INDEX calls_by_name ON calls (model, time) WHERE model_id IS NULL;
CREATE INDEX calls_failed ON calls (status, time) WHERE status >= 400;
CREATE INDEX calls_cached ON calls (time) WHERE kind = 'cached';
CREATE INDEX audit_by_time ON audit (time);
COMMIT;
