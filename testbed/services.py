"""The services that the worker needs, all real: Redis, PostgreSQL with PostgREST behind Supabase's address scheme, and
an SMTP server with TLS and AUTH that keeps what it accepts (services/…/smtp_server.py)."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

import jwt
import redis

from testbed.certificates import write_certificates
from testbed.errors import TestbedError
from testbed.paths import INSTANCES
from testbed.podman import podman

Service = Literal["redis", "postgrest", "postgresql", "nginx", "smtp"]
Action = Literal["start", "stop", "restart", "kill"]

_UNITS: dict[Service, str] = {
    "redis": "testbed-redis",
    "postgrest": "testbed-postgrest",
    "postgresql": "postgresql@*",
    "nginx": "testbed-nginx",
    "smtp": "testbed-smtp",
}


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses and secrets of one instance's services. The secrets are random and of no worth elsewhere."""

    container: str
    address: str
    redis_password: str
    supabase_secret_key: str
    supabase_jwt_secret: str
    database_password: str
    smtp_user: str
    smtp_password: str
    directory: str

    @classmethod
    def load(cls, name: str) -> Self:
        """The services of a running instance.

        Raises:
            TestbedError: there is none.
        """
        path = INSTANCES / name / "services.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            raise TestbedError(
                f"The instance {name} has no services: python -m testbed up {name} --services."
            ) from None

    @classmethod
    def invent(cls, container: str, address: str, directory: Path) -> Self:
        """New secrets for services at this address."""
        return cls(
            container=container,
            address=address,
            redis_password=secrets.token_urlsafe(16),
            supabase_secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
            supabase_jwt_secret=secrets.token_urlsafe(40),
            database_password=secrets.token_urlsafe(16),
            smtp_user="sender@testbed.example",
            smtp_password=secrets.token_urlsafe(16),
            directory=str(directory),
        )

    @property
    def redis_url(self) -> str:
        return f"redis://default:{self.redis_password}@{self.address}:6379/0"

    @property
    def supabase_url(self) -> str:
        return f"https://{self.address}"

    @property
    def database_url(self) -> str:
        """PostgreSQL's superuser, to look past PostgREST."""
        return f"postgresql://postgres:{self.database_password}@{self.address}:5432/postgres"

    @property
    def smtp_host(self) -> str:
        return self.address

    @property
    def smtp_port(self) -> int:
        return 587

    @property
    def ca_file(self) -> Path:
        return Path(self.directory) / "etc" / "ca.pem"

    @property
    def mail_directory(self) -> Path:
        """`accepted.jsonl`, `refused.jsonl` and the mails."""
        return Path(self.directory) / "mail"

    def accepted(self) -> list[dict[str, str]]:
        """What the SMTP server accepted: time, rcpt, message_id, subject, size, file."""
        return _json_lines(self.mail_directory / "accepted.jsonl")

    def refused(self) -> list[dict[str, str]]:
        """What it refused: time, rcpt, reply."""
        return _json_lines(self.mail_directory / "refused.jsonl")

    def control(self, service: Service, action: Action) -> None:
        """Stops, starts, restarts or kills (SIGKILL, without a restart) one of them."""
        unit = _UNITS[service]
        if action == "kill":
            podman("exec", self.container, "systemctl", "kill", "--signal=SIGKILL", unit)
            podman("exec", self.container, "systemctl", "stop", unit)
        else:
            podman("exec", self.container, "systemctl", action, *(["--all"] if "*" in unit else []), unit)

    def write(self, mail_delay_ms: int) -> None:
        """Writes services.json and the configuration that the container reads from /etc/testbed."""
        directory = Path(self.directory)
        etc = directory / "etc"
        etc.mkdir(exist_ok=True)
        (directory / "mail").mkdir(exist_ok=True)
        if not (etc / "ca.pem").exists():
            write_certificates(etc, self.address)
        smtp = {
            "certificate": "/etc/testbed/server.pem",
            "key": "/etc/testbed/server.key",
            "directory": "/var/mail-kept",
            "user": self.smtp_user,
            "passwords": [self.smtp_password],
            "delay_ms": mail_delay_ms,
        }
        files = {
            "redis.conf": _REDIS.format(password=self.redis_password),
            "schema.sql": _SCHEMA.format(password=self.database_password),
            "postgrest.conf": _POSTGREST.format(password=self.database_password, secret=self.supabase_jwt_secret),
            "nginx.conf": self._nginx_conf([self.supabase_secret_key]),
            "smtp.json": json.dumps(smtp),
        }
        for name, text in files.items():
            (etc / name).write_text(text, encoding="utf-8")
        (directory / "services.json").write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    def accept(self, *secrets_of: "Services") -> None:
        """Takes these ones' Redis passwords, Supabase keys and SMTP passwords from now on, and no others, as in a
        rotation. What is logged in stays so."""
        etc = Path(self.directory) / "etc"
        smtp = json.loads((etc / "smtp.json").read_text(encoding="utf-8"))
        smtp["passwords"] = [each.smtp_password for each in secrets_of]
        # Each login reads the file.
        new = etc / "smtp.json.new"
        new.write_text(json.dumps(smtp), encoding="utf-8")
        new.replace(etc / "smtp.json")
        keys = [each.supabase_secret_key for each in secrets_of]
        (etc / "nginx.conf").write_text(self._nginx_conf(keys), encoding="utf-8")
        podman("exec", self.container, "nginx", "-c", "/etc/testbed/nginx.conf", "-s", "reload")
        passwords = [f">{each.redis_password}" for each in secrets_of]
        with redis.Redis.from_url(self.redis_url) as client:
            client.execute_command("ACL", "SETUSER", "default", "resetpass", *passwords)

    def _nginx_conf(self, keys: list[str]) -> str:
        service_jwt = jwt.encode(
            {"role": "service_role", "iss": "supabase"}, self.supabase_jwt_secret, algorithm="HS256"
        )
        known = "\n".join(f'    "{key}" "{service_jwt}";' for key in [*keys, service_jwt])
        return _NGINX.format(keys=known)


def _json_lines(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    # The server may be in the middle of the last one.
    return [json.loads(line) for line in lines if line.endswith("\n")]


_REDIS = """\
bind * -::*
port 6379
requirepass {password}
dir /var/lib/redis
appendonly yes
maxmemory 512mb
maxmemory-policy noeviction
"""

# The roles are Supabase's own: https://supabase.com/docs/guides/database/postgres/roles
_SCHEMA = """\
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'authenticator') THEN
    CREATE ROLE anon NOLOGIN;
    CREATE ROLE service_role NOLOGIN BYPASSRLS;
    CREATE ROLE authenticator LOGIN NOINHERIT;
    GRANT anon, service_role TO authenticator;
  END IF;
END $$;
ALTER ROLE postgres PASSWORD '{password}';
ALTER ROLE authenticator PASSWORD '{password}';
ALTER ROLE authenticator SET statement_timeout = '8s';
CREATE TABLE IF NOT EXISTS campaigns (
  id uuid PRIMARY KEY,
  name text,
  status text NOT NULL DEFAULT 'sending'
);
CREATE TABLE IF NOT EXISTS campaign_subscribers (
  campaign_id uuid NOT NULL REFERENCES campaigns (id) ON DELETE CASCADE,
  subscriber_id uuid NOT NULL,
  sent boolean NOT NULL DEFAULT false,
  sent_at timestamptz,
  PRIMARY KEY (campaign_id, subscriber_id)
);
CREATE TABLE IF NOT EXISTS subscribers (
  id uuid PRIMARY KEY,
  email text NOT NULL
);
ALTER TABLE campaigns ENABLE ROW LEVEL SECURITY;
ALTER TABLE campaign_subscribers ENABLE ROW LEVEL SECURITY;
GRANT USAGE ON SCHEMA public TO anon, service_role;
GRANT ALL ON ALL TABLES IN SCHEMA public TO anon, service_role;
"""

# 1,000 rows is Supabase's default "Max rows".
_POSTGREST = """\
db-uri = "postgres://authenticator:{password}@127.0.0.1:5432/postgres"
db-schemas = "public"
db-anon-role = "anon"
db-max-rows = 1000
jwt-secret = "{secret}"
server-host = "127.0.0.1"
server-port = 3000
"""

_NGINX = """\
daemon off;
pid /run/testbed-nginx.pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  map_hash_bucket_size 512;
  map $http_apikey $service_jwt {{
    default "";
{keys}
  }}
  server {{
    listen 443 ssl;
    ssl_certificate /etc/testbed/server.pem;
    ssl_certificate_key /etc/testbed/server.key;
    location /rest/v1/ {{
      default_type application/json;
      if ($service_jwt = "") {{
        return 401 '{{"message":"Invalid API key","hint":"Double check your Supabase API key."}}';
      }}
      proxy_set_header Authorization "Bearer $service_jwt";
      proxy_pass http://127.0.0.1:3000/;
    }}
  }}
}}
"""
