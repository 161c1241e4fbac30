BEGIN TRANSACTION;
CREATE TABLE accounts (
	name TEXT NOT NULL, 
	password TEXT NOT NULL, 
	role TEXT NOT NULL, 
	state TEXT NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (name), 
	CHECK (role in ('rater', 'lead', 'admin')), 
	CHECK (state in ('active', 'disabled'))
)
 STRICT

;
INSERT INTO "accounts" VALUES('ann','$argon2id$v=19$m=8,t=1,p=1$zhze9fIv5VAQi2rWXDQPwA$Xc2lQjJkyPuI2E3S9hNRMoQ+6ZBzLEEBriRW4dENUnE','rater','active',1000);
INSERT INTO "accounts" VALUES('lea','$argon2id$v=19$m=8,t=1,p=1$F4MiqqYizv0ulp3CeqYV2g$3J7ifu+2X8aqiFEBwQ/M6MyRafMzyFWlwVDNXbMbJyY','lead','active',1000);
CREATE TABLE acknowledgements (
	rater TEXT NOT NULL, 
	campaign INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	version TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (rater, campaign, number), 
	FOREIGN KEY(campaign) REFERENCES campaigns (id)
)
 STRICT

;
INSERT INTO "acknowledgements" VALUES('ann',2,1,'cb505d9b68b757c3',1000);
INSERT INTO "acknowledgements" VALUES('bob',2,1,'cb505d9b68b757c3',1000);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('2');
CREATE TABLE answers (
	id INTEGER NOT NULL, 
	token TEXT NOT NULL, 
	item INTEGER NOT NULL, 
	rater TEXT NOT NULL, 
	revision INTEGER NOT NULL, 
	"key" TEXT NOT NULL, 
	retracted INTEGER, 
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
	UNIQUE (item, rater, revision), 
	FOREIGN KEY(token) REFERENCES leases (token), 
	FOREIGN KEY(item) REFERENCES items (id)
)
 STRICT

;
INSERT INTO "answers" VALUES(1,'x55yciFYZJ5dkhZQ4cmJQQXn',3,'ann',1,'ann 0',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','qualification',0,1010);
INSERT INTO "answers" VALUES(2,'vPYgxWWLxgxNUjdqPnRgW2ee',4,'ann',1,'ann 1',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1020);
INSERT INTO "answers" VALUES(3,'m2xW_DmTCZcrKHL1S-5zOHZc',5,'ann',1,'ann 2',NULL,'[2, 1, null]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1030);
INSERT INTO "answers" VALUES(4,'kBq1nC8gKdrEXisX1WHceyYj',1,'ann',1,'ann 3',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','it''s mine',1.5,'cb505d9b68b757c3','gold',0,1040);
INSERT INTO "answers" VALUES(5,'Ozu-p9Nso5M_f94vaUKjXAAv',6,'ann',1,'ann 4',NULL,'[2, 1, null]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1050);
INSERT INTO "answers" VALUES(6,'q_T827CJXTIuwVGaTsLUN_wj',8,'ann',1,'ann 6',NULL,'[2, 1, null]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1070);
INSERT INTO "answers" VALUES(7,'fzvHkTlvUm4sa-7cyT5u3kdz',9,'ann',1,'ann 7',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1080);
INSERT INTO "answers" VALUES(8,'fvdjuDjvh1pkgDgWgjpetLac',2,'ann',1,'ann 8',1130,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','gold',0,1090);
INSERT INTO "answers" VALUES(9,'BXV0wW9ZqZDDbjKpgv5zhbH1',13,'ann',1,'ann 9',NULL,'[1, 2, 3]','[2, 1, 0]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','repeat',0,1100);
INSERT INTO "answers" VALUES(10,'4guiQTwYca_Onsx9dMkE5DkR',10,'ann',1,'ann 10',NULL,'[2, 1, null]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1110);
INSERT INTO "answers" VALUES(11,'VaXbn4CRAyuYp_1D9n1tIj2S',11,'ann',1,'ann 11',1130,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1120);
INSERT INTO "answers" VALUES(12,'VaXbn4CRAyuYp_1D9n1tIj2S',11,'ann',2,'again',NULL,'[3, 2, 1]','[0, 1, 2]',NULL,0,'','',NULL,'cb505d9b68b757c3','normal',0,1130);
INSERT INTO "answers" VALUES(13,'5q0CKo7Kwigbw3KWXrV_vi0m',3,'bob',1,'bob 0',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','qualification',0,1140);
INSERT INTO "answers" VALUES(14,'4FHitIvwUjdS4YvVbtZU6phA',4,'bob',1,'bob 1',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1150);
INSERT INTO "answers" VALUES(15,'_x5Cw1wpJ982s3WtaqCVjj55',5,'bob',1,'bob 2',NULL,'[2, 1, null]','[0, 1, 2]','better',0,'why; not?','',1.5,'cb505d9b68b757c3','normal',0,1160);
INSERT INTO "answers" VALUES(16,'9a5Q35Mmpzap8xeK3CqltK1_',6,'bob',1,'bob 3',NULL,'[1, 2, 3]','[0, 1, 2]','better',0,'why; not?','it''s mine',1.5,'cb505d9b68b757c3','normal',0,1170);
CREATE TABLE campaigns (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	settings TEXT NOT NULL, 
	state TEXT NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CHECK (state in ('open', 'paused')), 
	UNIQUE (name)
)
 STRICT

;
INSERT INTO "campaigns" VALUES(1,'default','{"name": "default", "title": "", "gold_share": 0.0, "repeats": 0.0, "reason_share": 0.0, "strength": true, "qualification_pass": 0.8, "warning": "", "raters": [], "hide": [], "break_minutes": 50, "reveal": true, "contestants": []}','open',1000);
INSERT INTO "campaigns" VALUES(2,'study','{"name": "study", "title": "A study", "gold_share": 0.2, "repeats": 0.3, "reason_share": 0.0, "strength": true, "qualification_pass": 0.8, "warning": "Some texts are rude.", "raters": [], "hide": [], "break_minutes": 50, "reveal": true, "contestants": []}','open',1000);
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
INSERT INTO "choices" VALUES(1,0,'51908967f77cc597');
INSERT INTO "choices" VALUES(1,1,'1931c63a29023187');
INSERT INTO "choices" VALUES(1,2,'9a6d48850709e1b1');
INSERT INTO "choices" VALUES(2,0,'51908967f77cc597');
INSERT INTO "choices" VALUES(2,1,'1931c63a29023187');
INSERT INTO "choices" VALUES(2,2,'9a6d48850709e1b1');
INSERT INTO "choices" VALUES(3,0,'51908967f77cc597');
INSERT INTO "choices" VALUES(3,1,'1931c63a29023187');
INSERT INTO "choices" VALUES(3,2,'9a6d48850709e1b1');
INSERT INTO "choices" VALUES(4,0,'23a7bce15fa6213d');
INSERT INTO "choices" VALUES(4,1,'85a0f8cbabf22fde');
INSERT INTO "choices" VALUES(4,2,'69d624cc35912917');
INSERT INTO "choices" VALUES(5,0,'56a20062ac0175c5');
INSERT INTO "choices" VALUES(5,1,'f485153b0824d568');
INSERT INTO "choices" VALUES(5,2,'d9476265323c77b2');
INSERT INTO "choices" VALUES(6,0,'31c2a2ad24976c54');
INSERT INTO "choices" VALUES(6,1,'052f72ebafa6e84b');
INSERT INTO "choices" VALUES(6,2,'cc84b7facbf47fa3');
INSERT INTO "choices" VALUES(7,0,'e4a19563b1adbdcf');
INSERT INTO "choices" VALUES(7,1,'007a2c657c4cf8a3');
INSERT INTO "choices" VALUES(7,2,'759bfdb658d29fd1');
INSERT INTO "choices" VALUES(8,0,'b2c718fb444a9796');
INSERT INTO "choices" VALUES(8,1,'b9dd5980e18a2170');
INSERT INTO "choices" VALUES(8,2,'8ab356491ec93c52');
INSERT INTO "choices" VALUES(9,0,'fb56fedf9c3e2be2');
INSERT INTO "choices" VALUES(9,1,'125e01d3b20b79c6');
INSERT INTO "choices" VALUES(9,2,'f885a6fe3e69e239');
INSERT INTO "choices" VALUES(10,0,'cd2ca4d182c6d1a3');
INSERT INTO "choices" VALUES(10,1,'8d86bbfcfcaa3d06');
INSERT INTO "choices" VALUES(10,2,'ca2da4d5cf72ff40');
INSERT INTO "choices" VALUES(11,0,'d246808c5d3079c3');
INSERT INTO "choices" VALUES(11,1,'32d78c667dbb2551');
INSERT INTO "choices" VALUES(11,2,'fa3172a3a13f2813');
INSERT INTO "choices" VALUES(12,0,'589d97452ce3b9ec');
INSERT INTO "choices" VALUES(12,1,'e1f11861ad836988');
INSERT INTO "choices" VALUES(12,2,'d9d8fb80d5e06a12');
INSERT INTO "choices" VALUES(13,0,'23a7bce15fa6213d');
INSERT INTO "choices" VALUES(13,1,'85a0f8cbabf22fde');
INSERT INTO "choices" VALUES(13,2,'69d624cc35912917');
CREATE TABLE failures (
	id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	address TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (id)
)
 STRICT

;
INSERT INTO "failures" VALUES(1,'ann','10.0.0.1',1000);
CREATE TABLE flags (
	item INTEGER NOT NULL, 
	rater TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	note TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (item, rater, kind), 
	CHECK (kind in ('unsafe', 'personal', 'broken', 'other')), 
	FOREIGN KEY(item) REFERENCES items (id)
)
 STRICT

;
INSERT INTO "flags" VALUES(7,'ann','unsafe','it''s rude; very',1060);
CREATE TABLE golds (
	item INTEGER NOT NULL, 
	ranks TEXT NOT NULL, 
	none_acceptable INTEGER NOT NULL, 
	explanation TEXT NOT NULL, 
	retired INTEGER NOT NULL, 
	PRIMARY KEY (item), 
	FOREIGN KEY(item) REFERENCES items (id)
)
 STRICT

;
INSERT INTO "golds" VALUES(1,'[1, 2, 3]',0,'it is; isn''t it?',0);
INSERT INTO "golds" VALUES(2,'[1, 2, 3]',0,'it is; isn''t it?',0);
INSERT INTO "golds" VALUES(3,'[1, 2, 3]',0,'it is; isn''t it?',0);
CREATE TABLE guidelines (
	campaign INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	version TEXT NOT NULL, 
	text TEXT NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (campaign, number), 
	FOREIGN KEY(campaign) REFERENCES campaigns (id)
)
 STRICT

;
INSERT INTO "guidelines" VALUES(2,1,'cb505d9b68b757c3','# Be fair; always
',1000);
CREATE TABLE illustrations (
	prompt TEXT NOT NULL, 
	source TEXT NOT NULL, 
	picture TEXT NOT NULL, 
	PRIMARY KEY (prompt, source), 
	FOREIGN KEY(prompt) REFERENCES prompts (digest), 
	FOREIGN KEY(picture) REFERENCES pictures (digest)
)
 STRICT

;
INSERT INTO "illustrations" VALUES('4cedc9a83707cbac','cat.png','a3a38f5ee412f4ece7d9561e17a968136d66dfb339891408c5f88ba8b35fd1db');
INSERT INTO "illustrations" VALUES('36bd349e97297428','cat.png','a3a38f5ee412f4ece7d9561e17a968136d66dfb339891408c5f88ba8b35fd1db');
INSERT INTO "illustrations" VALUES('b9d0b3da14d88f17','cat.png','a3a38f5ee412f4ece7d9561e17a968136d66dfb339891408c5f88ba8b35fd1db');
CREATE TABLE invitations (
	digest TEXT NOT NULL, 
	role TEXT NOT NULL, 
	name TEXT, 
	purpose TEXT NOT NULL, 
	expires INTEGER NOT NULL, 
	used INTEGER, 
	PRIMARY KEY (digest), 
	CHECK (purpose in ('join', 'reset'))
)
 STRICT

;
INSERT INTO "invitations" VALUES('868383738e402a8d4bc111995c74a2362670a309b867eca73fd5090e4d26f3d2','rater','bob','join',87400,NULL);
CREATE TABLE items (
	id INTEGER NOT NULL, 
	digest TEXT NOT NULL, 
	campaign INTEGER NOT NULL, 
	prompt TEXT NOT NULL, 
	need INTEGER NOT NULL, 
	done INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	rater TEXT, 
	mirrors INTEGER, 
	stratum TEXT NOT NULL, 
	priority INTEGER NOT NULL, 
	created INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (campaign, digest), 
	CHECK (need >= 1), 
	CHECK (done between 0 and need), 
	CHECK (kind in ('normal', 'gold', 'repeat', 'qualification')), 
	CHECK ((kind = 'repeat') = (rater is not null and mirrors is not null)), 
	FOREIGN KEY(campaign) REFERENCES campaigns (id), 
	FOREIGN KEY(prompt) REFERENCES prompts (digest), 
	FOREIGN KEY(mirrors) REFERENCES items (id)
)
 STRICT

;
INSERT INTO "items" VALUES(1,'13d393e2ee210786',2,'4cedc9a83707cbac',1,0,'gold',NULL,NULL,'',0,1000);
INSERT INTO "items" VALUES(2,'0f06eef64e5f3e3e',2,'4a72fa9cf5a75ea1',1,0,'gold',NULL,NULL,'',0,1000);
INSERT INTO "items" VALUES(3,'853a9395421ff59d',2,'36bd349e97297428',1,0,'qualification',NULL,NULL,'',0,1000);
INSERT INTO "items" VALUES(4,'22a6cca0c0ef8494',2,'b9d0b3da14d88f17',2,2,'normal',NULL,NULL,'numbers',0,1000);
INSERT INTO "items" VALUES(5,'a71a7b1daec82035',2,'a06454970e54c801',2,2,'normal',NULL,NULL,'letters',0,1000);
INSERT INTO "items" VALUES(6,'e5244cdafb1ff41a',2,'c7b6b539c2ce921f',2,2,'normal',NULL,NULL,'numbers',0,1000);
INSERT INTO "items" VALUES(7,'260304009bcd3a75',2,'abf274c96c6b91fa',2,0,'normal',NULL,NULL,'letters',0,1000);
INSERT INTO "items" VALUES(8,'c302ed10b0a746c6',2,'5411f3b4e5b34ef6',2,1,'normal',NULL,NULL,'numbers',0,1000);
INSERT INTO "items" VALUES(9,'b34743eb4cec4d6e',2,'88b862a66250e00b',2,1,'normal',NULL,NULL,'letters',0,1000);
INSERT INTO "items" VALUES(10,'06e09fabec59574e',2,'ab14e9d04a59b244',2,1,'normal',NULL,NULL,'numbers',0,1000);
INSERT INTO "items" VALUES(11,'50c80970aa9ec56c',2,'895a4259f4affff2',2,1,'normal',NULL,NULL,'letters',0,1000);
INSERT INTO "items" VALUES(12,'73059b63141d3ae5',1,'090e7cf57ad76354',1,0,'normal',NULL,NULL,'numbers',0,1000);
INSERT INTO "items" VALUES(13,'320b8e6c0e3d99aa',2,'b9d0b3da14d88f17',1,0,'repeat','ann',4,'numbers',0,1100);
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
INSERT INTO "leases" VALUES(3,'ann','x55yciFYZJ5dkhZQ4cmJQQXn','[0, 1, 2]','done',1010,1610);
INSERT INTO "leases" VALUES(4,'ann','vPYgxWWLxgxNUjdqPnRgW2ee','[0, 1, 2]','done',1020,1620);
INSERT INTO "leases" VALUES(5,'ann','m2xW_DmTCZcrKHL1S-5zOHZc','[0, 1, 2]','done',1030,1630);
INSERT INTO "leases" VALUES(1,'ann','kBq1nC8gKdrEXisX1WHceyYj','[0, 1, 2]','done',1040,1640);
INSERT INTO "leases" VALUES(6,'ann','Ozu-p9Nso5M_f94vaUKjXAAv','[0, 1, 2]','done',1050,1650);
INSERT INTO "leases" VALUES(7,'ann','yeGRYaFhSw4Y05Gy9EDDyXGM','[0, 1, 2]','skipped',1060,1660);
INSERT INTO "leases" VALUES(8,'ann','q_T827CJXTIuwVGaTsLUN_wj','[0, 1, 2]','done',1070,1670);
INSERT INTO "leases" VALUES(9,'ann','fzvHkTlvUm4sa-7cyT5u3kdz','[0, 1, 2]','done',1080,1680);
INSERT INTO "leases" VALUES(2,'ann','fvdjuDjvh1pkgDgWgjpetLac','[0, 1, 2]','open',1090,2930);
INSERT INTO "leases" VALUES(13,'ann','BXV0wW9ZqZDDbjKpgv5zhbH1','[2, 1, 0]','done',1100,1700);
INSERT INTO "leases" VALUES(10,'ann','4guiQTwYca_Onsx9dMkE5DkR','[0, 1, 2]','done',1110,1710);
INSERT INTO "leases" VALUES(11,'ann','VaXbn4CRAyuYp_1D9n1tIj2S','[0, 1, 2]','done',1120,1720);
INSERT INTO "leases" VALUES(3,'bob','5q0CKo7Kwigbw3KWXrV_vi0m','[0, 1, 2]','done',1140,1740);
INSERT INTO "leases" VALUES(4,'bob','4FHitIvwUjdS4YvVbtZU6phA','[0, 1, 2]','done',1150,1750);
INSERT INTO "leases" VALUES(5,'bob','_x5Cw1wpJ982s3WtaqCVjj55','[0, 1, 2]','done',1160,1760);
INSERT INTO "leases" VALUES(6,'bob','9a5Q35Mmpzap8xeK3CqltK1_','[0, 1, 2]','done',1170,1770);
INSERT INTO "leases" VALUES(7,'bob','eZJK23Khk84W6Df9mFImtmb7','[0, 1, 2]','open',1170,1770);
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
)
 STRICT

;
INSERT INTO "meta" VALUES('schema','2');
INSERT INTO "meta" VALUES('seed','7');
CREATE TABLE pictures (
	digest TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (digest)
)
 STRICT

;
INSERT INTO "pictures" VALUES('a3a38f5ee412f4ece7d9561e17a968136d66dfb339891408c5f88ba8b35fd1db','image/png',X'89504E470D0A1A0A003B27');
CREATE TABLE prompts (
	digest TEXT NOT NULL, 
	id TEXT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (digest)
)
 STRICT

;
INSERT INTO "prompts" VALUES('4cedc9a83707cbac','0a127d5af4755f5e','{"id": "0a127d5af4755f5e", "messages": [{"content": "gold 0", "role": "user"}], "source": "", "split": "train", "stratum": ""}');
INSERT INTO "prompts" VALUES('4a72fa9cf5a75ea1','a0d1c056d42040f6','{"id": "a0d1c056d42040f6", "messages": [{"content": "gold 1", "role": "user"}], "source": "", "split": "train", "stratum": ""}');
INSERT INTO "prompts" VALUES('36bd349e97297428','7085d9f99e361df8','{"id": "7085d9f99e361df8", "messages": [{"content": "trial 0", "role": "user"}], "source": "", "split": "train", "stratum": ""}');
INSERT INTO "prompts" VALUES('b9d0b3da14d88f17','99a707a131d7a5c5','{"id": "99a707a131d7a5c5", "messages": [{"content": "question 0", "role": "user"}], "source": "", "split": "train", "stratum": "numbers"}');
INSERT INTO "prompts" VALUES('a06454970e54c801','1b026249a331e661','{"id": "1b026249a331e661", "messages": [{"content": "question 1", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('c7b6b539c2ce921f','8f07522534def62f','{"id": "8f07522534def62f", "messages": [{"content": "question 2", "role": "user"}], "source": "", "split": "train", "stratum": "numbers"}');
INSERT INTO "prompts" VALUES('abf274c96c6b91fa','540d6513d7b0e960','{"id": "540d6513d7b0e960", "messages": [{"content": "question 3", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('5411f3b4e5b34ef6','ca6a4b143388f285','{"id": "ca6a4b143388f285", "messages": [{"content": "question 4", "role": "user"}], "source": "", "split": "train", "stratum": "numbers"}');
INSERT INTO "prompts" VALUES('88b862a66250e00b','ab99e010011e43b5','{"id": "ab99e010011e43b5", "messages": [{"content": "question 5", "role": "user"}], "source": "", "split": "validation", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('ab14e9d04a59b244','621e177bd26c3d59','{"id": "621e177bd26c3d59", "messages": [{"content": "question 6", "role": "user"}], "source": "", "split": "test", "stratum": "numbers"}');
INSERT INTO "prompts" VALUES('895a4259f4affff2','e9f6474669694bac','{"id": "e9f6474669694bac", "messages": [{"content": "question 7", "role": "user"}], "source": "", "split": "train", "stratum": "letters"}');
INSERT INTO "prompts" VALUES('090e7cf57ad76354','61eefb8bd610a30f','{"id": "61eefb8bd610a30f", "messages": [{"content": "question 20", "role": "user"}], "source": "", "split": "train", "stratum": "numbers"}');
CREATE TABLE responses (
	digest TEXT NOT NULL, 
	id TEXT NOT NULL, 
	record TEXT NOT NULL, 
	PRIMARY KEY (digest)
)
 STRICT

;
INSERT INTO "responses" VALUES('51908967f77cc597','2a9bafabbfcac36f','{"checksum": "", "id": "2a9bafabbfcac36f", "policy": "", "sampling": {}, "seed": 0, "text": "good"}');
INSERT INTO "responses" VALUES('1931c63a29023187','c27247bb253594a3','{"checksum": "", "id": "c27247bb253594a3", "policy": "", "sampling": {}, "seed": 0, "text": "bad"}');
INSERT INTO "responses" VALUES('9a6d48850709e1b1','c587e101300ee8b0','{"checksum": "", "id": "c587e101300ee8b0", "policy": "", "sampling": {}, "seed": 0, "text": "worse"}');
INSERT INTO "responses" VALUES('23a7bce15fa6213d','8d34e52356bfa743','{"checksum": "", "id": "8d34e52356bfa743", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.0"}');
INSERT INTO "responses" VALUES('85a0f8cbabf22fde','244aa90270789cb9','{"checksum": "", "id": "244aa90270789cb9", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.1"}');
INSERT INTO "responses" VALUES('69d624cc35912917','b067ea57f1351704','{"checksum": "", "id": "b067ea57f1351704", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 0.2"}');
INSERT INTO "responses" VALUES('56a20062ac0175c5','c48f0d81c8abe7cf','{"checksum": "", "id": "c48f0d81c8abe7cf", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.0"}');
INSERT INTO "responses" VALUES('f485153b0824d568','e23d1228054af838','{"checksum": "", "id": "e23d1228054af838", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.1"}');
INSERT INTO "responses" VALUES('d9476265323c77b2','8a1500a35ae64f8b','{"checksum": "", "id": "8a1500a35ae64f8b", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 1.2"}');
INSERT INTO "responses" VALUES('31c2a2ad24976c54','cbc0fd30b78797d7','{"checksum": "", "id": "cbc0fd30b78797d7", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.0"}');
INSERT INTO "responses" VALUES('052f72ebafa6e84b','7cc55aaffd38e1f0','{"checksum": "", "id": "7cc55aaffd38e1f0", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.1"}');
INSERT INTO "responses" VALUES('cc84b7facbf47fa3','bf0e842b7091172c','{"checksum": "", "id": "bf0e842b7091172c", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 2.2"}');
INSERT INTO "responses" VALUES('e4a19563b1adbdcf','883cb3dd067419e1','{"checksum": "", "id": "883cb3dd067419e1", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 3.0"}');
INSERT INTO "responses" VALUES('007a2c657c4cf8a3','5774b66beee2f403','{"checksum": "", "id": "5774b66beee2f403", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 3.1"}');
INSERT INTO "responses" VALUES('759bfdb658d29fd1','37817e462ef6697c','{"checksum": "", "id": "37817e462ef6697c", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 3.2"}');
INSERT INTO "responses" VALUES('b2c718fb444a9796','1e5c180043fa03fe','{"checksum": "", "id": "1e5c180043fa03fe", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 4.0"}');
INSERT INTO "responses" VALUES('b9dd5980e18a2170','56ffdda103522648','{"checksum": "", "id": "56ffdda103522648", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 4.1"}');
INSERT INTO "responses" VALUES('8ab356491ec93c52','e13043fb09777ab6','{"checksum": "", "id": "e13043fb09777ab6", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 4.2"}');
INSERT INTO "responses" VALUES('fb56fedf9c3e2be2','953d01c4536af27c','{"checksum": "", "id": "953d01c4536af27c", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 5.0"}');
INSERT INTO "responses" VALUES('125e01d3b20b79c6','b810a4758162c367','{"checksum": "", "id": "b810a4758162c367", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 5.1"}');
INSERT INTO "responses" VALUES('f885a6fe3e69e239','790a5f4dd4422421','{"checksum": "", "id": "790a5f4dd4422421", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 5.2"}');
INSERT INTO "responses" VALUES('cd2ca4d182c6d1a3','756c99936c9b3c71','{"checksum": "", "id": "756c99936c9b3c71", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 6.0"}');
INSERT INTO "responses" VALUES('8d86bbfcfcaa3d06','11993b28adf98967','{"checksum": "", "id": "11993b28adf98967", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 6.1"}');
INSERT INTO "responses" VALUES('ca2da4d5cf72ff40','878b671da5a5ca6d','{"checksum": "", "id": "878b671da5a5ca6d", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 6.2"}');
INSERT INTO "responses" VALUES('d246808c5d3079c3','ea347ce8986cdf6d','{"checksum": "", "id": "ea347ce8986cdf6d", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 7.0"}');
INSERT INTO "responses" VALUES('32d78c667dbb2551','8b31a150ea825731','{"checksum": "", "id": "8b31a150ea825731", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 7.1"}');
INSERT INTO "responses" VALUES('fa3172a3a13f2813','522e45ef554daee2','{"checksum": "", "id": "522e45ef554daee2", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 7.2"}');
INSERT INTO "responses" VALUES('589d97452ce3b9ec','d299649a1d1a8a80','{"checksum": "", "id": "d299649a1d1a8a80", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 20.0"}');
INSERT INTO "responses" VALUES('e1f11861ad836988','82d302b4404ae4c1','{"checksum": "", "id": "82d302b4404ae4c1", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 20.1"}');
INSERT INTO "responses" VALUES('d9d8fb80d5e06a12','ffaf50b0cb34da08','{"checksum": "", "id": "ffaf50b0cb34da08", "policy": "runs/sft", "sampling": {}, "seed": 0, "text": "answer 20.2"}');
CREATE TABLE sessions (
	digest TEXT NOT NULL, 
	rater TEXT NOT NULL, 
	created INTEGER NOT NULL, 
	seen INTEGER NOT NULL, 
	expires INTEGER NOT NULL, 
	PRIMARY KEY (digest), 
	FOREIGN KEY(rater) REFERENCES accounts (name)
)
 STRICT

;
INSERT INTO "sessions" VALUES('0d6316f2bc8470fdbdf26e0034cb2e73862413421d24b7f44de750d7ec3a2143','ann',1000,1000,1210600);
CREATE TABLE verdicts (
	rater TEXT NOT NULL, 
	campaign INTEGER NOT NULL, 
	needed INTEGER NOT NULL, 
	"right" INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (rater, campaign), 
	CHECK (state in ('passed', 'failed')), 
	FOREIGN KEY(campaign) REFERENCES campaigns (id)
)
 STRICT

;
INSERT INTO "verdicts" VALUES('ann',2,1,1,'passed',1010);
INSERT INTO "verdicts" VALUES('bob',2,1,1,'passed',1140);
CREATE TABLE warnings (
	id INTEGER NOT NULL, 
	rater TEXT NOT NULL, 
	campaign INTEGER NOT NULL, 
	version TEXT NOT NULL, 
	accepted INTEGER NOT NULL, 
	at INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(campaign) REFERENCES campaigns (id)
)
 STRICT

;
INSERT INTO "warnings" VALUES(1,'ann',2,'fd9816c402bdadfa',1,1000);
INSERT INTO "warnings" VALUES(2,'bob',2,'fd9816c402bdadfa',1,1000);
CREATE INDEX ix_prompts_id ON prompts (id);
CREATE INDEX ix_responses_id ON responses (id);
CREATE INDEX failures_of_name ON failures (name, at);
CREATE INDEX items_open ON items (campaign, kind, priority DESC, id) WHERE done < need;
CREATE INDEX items_by_name ON items (digest);
CREATE INDEX items_of_campaign ON items (campaign, kind, need, done);
CREATE UNIQUE INDEX repeats_of_rater ON items (rater, mirrors) WHERE kind = 'repeat';
CREATE INDEX warnings_of_rater ON warnings (rater, campaign, version);
CREATE INDEX ix_sessions_rater ON sessions (rater);
CREATE INDEX leases_of_rater ON leases (rater, state);
CREATE INDEX answers_of_rater ON answers (rater, id);
CREATE UNIQUE INDEX answers_by_key ON answers (rater, "key") WHERE "key" != '';
CREATE UNIQUE INDEX answers_counting ON answers (item, rater) WHERE retracted IS NULL;
CREATE INDEX answers_surplus ON answers (item) WHERE surplus = 1;
COMMIT;
