BEGIN TRANSACTION;
CREATE TABLE answers (
	id INTEGER NOT NULL, 
	token TEXT NOT NULL, 
	item INTEGER NOT NULL, 
	rater TEXT NOT NULL, 
	ranks TEXT NOT NULL, 
	shown TEXT NOT NULL, 
	strength TEXT, 
	none_acceptable INTEGER NOT NULL, 
	reason TEXT NOT NULL, 
	edited TEXT NOT NULL, 
	seconds REAL, 
	guideline TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	surplus INTEGER NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (item, rater), 
	UNIQUE (token), 
	FOREIGN KEY(token) REFERENCES leases (token), 
	FOREIGN KEY(item) REFERENCES items (id)
)
 STRICT

;
INSERT INTO "answers" VALUES(1,'pZkUEKG06B8CxWxVG4eA076O',1,'ann','[2, 1, 3]','[0, 1, 2]','better',0,'why; not?','it''s mine',1.5,'v1','normal',0,1000);
INSERT INTO "answers" VALUES(2,'lnezbuS39ClXHdO4tIxDUIrh',2,'di','[1, 2, null]','[0, 1, 2]',NULL,0,'','',NULL,'','normal',0,1100);
INSERT INTO "answers" VALUES(3,'fWaoX36w1E1r71XL3dIDVtV4',1,'bob','[1, 2, 3]','[2, 1, 0]',NULL,0,'','',NULL,'','normal',1,1100);
CREATE TABLE choices (
	item INTEGER NOT NULL, 
	place INTEGER NOT NULL, 
	response TEXT NOT NULL, 
	PRIMARY KEY (item, place), 
	FOREIGN KEY(item) REFERENCES items (id), 
	FOREIGN KEY(response) REFERENCES responses (digest)
)
 STRICT

;
INSERT INTO "choices" VALUES(1,0,'23a7bce15fa6213d');
INSERT INTO "choices" VALUES(1,1,'85a0f8cbabf22fde');
INSERT INTO "choices" VALUES(1,2,'69d624cc35912917');
INSERT INTO "choices" VALUES(2,0,'56a20062ac0175c5');
INSERT INTO "choices" VALUES(2,1,'f485153b0824d568');
INSERT INTO "choices" VALUES(2,2,'d9476265323c77b2');
INSERT INTO "choices" VALUES(3,0,'31c2a2ad24976c54');
INSERT INTO "choices" VALUES(3,1,'052f72ebafa6e84b');
INSERT INTO "choices" VALUES(3,2,'cc84b7facbf47fa3');
CREATE TABLE items (
	id INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	prompt TEXT NOT NULL, 
	need INTEGER NOT NULL, 
	done INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	stratum TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CHECK (need >= 1), 
	CHECK (done between 0 and need), 
	UNIQUE (digest), 
	FOREIGN KEY(prompt) REFERENCES prompts (digest)
)
 STRICT

;
INSERT INTO "items" VALUES(1,'45e86a2ba210cdab','2c7fac18b194591d',2,1,'normal','letters',0,1000);
INSERT INTO "items" VALUES(2,'a71a7b1daec82035','a06454970e54c801',2,1,'normal','letters',0,1000);
INSERT INTO "items" VALUES(3,'b257b46811eab42e','f133fb1479ce92f1',1,0,'gold','letters',0,1000);
CREATE TABLE leases (
	item INTEGER NOT NULL, 
	rater TEXT NOT NULL, 
	token TEXT NOT NULL, 
	shown TEXT NOT NULL, 
	state TEXT NOT NULL, 
	issued INTEGER NOT NULL, 
	expires INTEGER NOT NULL, 
	PRIMARY KEY (item, rater), 
	CHECK (state in ('open', 'skipped', 'done')), 
	FOREIGN KEY(item) REFERENCES items (id), 
	UNIQUE (token)
)
 STRICT

;
INSERT INTO "leases" VALUES(1,'ann','pZkUEKG06B8CxWxVG4eA076O','[0, 1, 2]','done',1000,1060);
INSERT INTO "leases" VALUES(2,'ann','pNd_c9IGujfuDYWpjyn2Z38S','[0, 1, 2]','skipped',1000,1060);
INSERT INTO "leases" VALUES(1,'bob','fWaoX36w1E1r71XL3dIDVtV4','[2, 1, 0]','done',1000,1060);
INSERT INTO "leases" VALUES(1,'cy','HCteZD6npgHd_AKC5Klk755x','[0, 1, 2]','open',1100,1160);
INSERT INTO "leases" VALUES(2,'di','lnezbuS39ClXHdO4tIxDUIrh','[0, 1, 2]','done',1100,1160);
INSERT INTO "leases" VALUES(3,'ann','103f4PpUHP8tU2iV6nGBIsyQ','[0, 1, 2]','open',1100,1160);
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
)
 STRICT

;
INSERT INTO "meta" VALUES('schema','1');
INSERT INTO "meta" VALUES('seed','7');
CREATE TABLE prompts (
	digest TEXT NOT NULL, 
	id TEXT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (digest)
)
 STRICT

;
INSERT INTO "prompts" VALUES('2c7fac18b194591d','99a707a131d7a5c5','{"id": "99a707a131d7a5c5", "messages": [{"content": "question 0", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('a06454970e54c801','1b026249a331e661','{"id": "1b026249a331e661", "messages": [{"content": "question 1", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('f133fb1479ce92f1','8f07522534def62f','{"id": "8f07522534def62f", "messages": [{"content": "question 2", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
CREATE TABLE responses (
	digest TEXT NOT NULL, 
	id TEXT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (digest)
)
 STRICT

;
INSERT INTO "responses" VALUES('23a7bce15fa6213d','8d34e52356bfa743','{"checksum": "", "id": "8d34e52356bfa743", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.0"}');
INSERT INTO "responses" VALUES('85a0f8cbabf22fde','244aa90270789cb9','{"checksum": "", "id": "244aa90270789cb9", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.1"}');
INSERT INTO "responses" VALUES('69d624cc35912917','b067ea57f1351704','{"checksum": "", "id": "b067ea57f1351704", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.2"}');
INSERT INTO "responses" VALUES('56a20062ac0175c5','c48f0d81c8abe7cf','{"checksum": "", "id": "c48f0d81c8abe7cf", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.0"}');
INSERT INTO "responses" VALUES('f485153b0824d568','e23d1228054af838','{"checksum": "", "id": "e23d1228054af838", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.1"}');
INSERT INTO "responses" VALUES('d9476265323c77b2','8a1500a35ae64f8b','{"checksum": "", "id": "8a1500a35ae64f8b", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.2"}');
INSERT INTO "responses" VALUES('31c2a2ad24976c54','cbc0fd30b78797d7','{"checksum": "", "id": "cbc0fd30b78797d7", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.0"}');
INSERT INTO "responses" VALUES('052f72ebafa6e84b','7cc55aaffd38e1f0','{"checksum": "", "id": "7cc55aaffd38e1f0", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.1"}');
INSERT INTO "responses" VALUES('cc84b7facbf47fa3','bf0e842b7091172c','{"checksum": "", "id": "bf0e842b7091172c", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.2"}');
CREATE INDEX ix_prompts_id ON prompts (id);
CREATE INDEX ix_responses_id ON responses (id);
CREATE INDEX items_open ON items (priority DESC, id) WHERE done < need;
CREATE INDEX leases_of_rater ON leases (rater, state);
CREATE INDEX ix_answers_rater ON answers (rater);
COMMIT;
