//! What the command line is, for people.

pub(super) const HELP: &str = "\
moorline-agent: this machine's data, from its host, for its programs

Usage:
  moorline-agent run [--link WHERE] [--socket PATH] [--ready-after SECONDS] [--access FILE] [--imds VERSION]
                     [--imds-listen ADDRESS:PORT] [--state FOLDER] [--keep PREFIX]... [--log LEVEL]
  moorline-agent get PATH        write an entry's bytes
  moorline-agent list [PREFIX]   name the entries below a prefix, or all
  moorline-agent watch [PREFIX]  write every change from now on
  moorline-agent set PATH [VALUE]     give an entry this value, or what comes on standard input
  moorline-agent append PATH [VALUE]  add this to the end of an entry's value
  moorline-agent delete PATH          remove an entry
  moorline-agent write-status [KEY]   say what became of the change with this key, or which changes are in doubt
  moorline-agent identity-token --audience NAME
                                 write a token by which NAME knows this machine, a JSON Web Token
  moorline-agent credentials     name the credentials that this machine was given
  moorline-agent credentials ROLE [--format env|json|process]
                                 write a role's credentials: for a shell, for programs, or as a
                                 credential_process of the AWS SDKs [default: json]
  moorline-agent status          say who this machine is and how its agent fares

For get, list, watch, set, append and delete:
  --instance ID        another instance's data, as far as its access lists allow
For these, and for write-status, identity-token, credentials and status:
  --json               as JSON: the entry, the listing, a line for each change, what was done
For set, append and delete:
  --idempotency-key KEY  what the change is known by; asked for again with the same key, it is made once at most
  --if-match EPOCH.N   only if the entry last changed at this revision
  --if-absent          only if there is no such entry
For set:
  --content-type TYPE  what the value is, as in text/plain
  --ttl SECONDS        how long it is valid; then the entry is gone
For get:
  --max-age MS         nothing older than this many milliseconds
For list:
  --values             with --json, the values too
For watch:
  --after EPOCH.N      from this revision on, as far back as the agent remembers
For all:
  --socket PATH        the agent's socket [default: /run/moorline/agent.sock]
For run:
  --link WHERE         where the host is: vsock, vsock:CID:PORT or unix:/PATH [default: vsock]
  --ready-after S      tell the service manager READY after this long even without data [default: 20]
  --access FILE        who may read what [default: /etc/moorline/agent.access, if it is there]
  --imds VERSION       serve EC2's metadata service, too: v2, or v1 to answer without tokens as well
  --imds-listen A:P    where [default: 169.254.169.254:80, which is added to lo meanwhile]
  --state FOLDER       what outlasts a reboot, for root alone [default: /var/lib/moorline/agent]
  --keep PREFIX        also keep the entries below it in that folder, secret ones aside, to read them after a reboot
                       while the host is away; say it once for each prefix, or '' for all
  --log LEVEL          error, warn, info, debug or trace [default: info]

Exit codes: 0 done, 1 failed, 2 wrong command line, 3 no such entry, role or change, 4 agent or host can't be reached,
5 nobody can say yet whether it was done: repeat the command with the idempotency key that it named.
Local programs can also ask the socket themselves, by HTTP:
  curl --unix-socket /run/moorline/agent.sock http://agent/v1/data/PATH
";
