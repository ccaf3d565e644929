"""All state, in Redis and on the disk of this host. Secrets are looked up by their hashes and never stored.

| key | value | lives |
|---|---|---|
| `client:ID` | a registered client (`clients`) | days unless used, then as long as its grants |
| `unused-clients` | identifiers of those without a login yet, by registration | as the newest |
| `code:HASH` | what a code stands for, kept past its end so that a replay is noticed (`codes`) | 10 minutes |
| `redeemed:HASH` | by which attempt the code was redeemed | 10 minutes |
| `grant:SID` | a grant (`grants`); its access tokens are good while it exists | a refresh token lifetime |
| `refresh:SID` | the grant's refresh generation (`refresh_tokens`), and when former ones were used | as the grant |
| `grants-of-user:SUB`, `grants-of-client:ID` | grant ids by last use | as their last grant |
| `login-of-user:SUB` | what asks the provider about the user again, encrypted (`logins`) | as their last grant |
| `login:HASH` | an approved authorization request on its way through the identity provider | 10 minutes |
| `logins` | the hashes of those, by the time they were sent there | a day after the newest |
| `session:HASH` | who is signed in (`sessions`) | `lifetimes.session`, whatever happens |
| `sessions-of-user:SUB` | the hashes of those, by their end | as the last of them |
| `approvals-of-user:SUB` | digest → what was approved, and when (`consents`) | 90 days after the last one |
| `pins:PROVIDER` | login → subject that first used it (`pins`) | for good |
| `quota:NAME:HASH` | how often something was done in the current window (`quotas`) | one window |
| `wait:HASH` | how long an address was just told to wait, by a group of endpoints | seconds |
| `used:HASH` | by which attempt an assertion's `jti` was used (`identifiers`) | as long as it could be believed |
| `document:HASH` | a client's metadata document or key set, as fetched (`documents`) | a day at most |
| `documents` | the hashes of those, by the time they were fetched | a day after the newest |
| `lock:HASH` | that someone is at work (`locks`) | seconds |
| `subjects-name-servers` | that users are called as `subjects` says | for good |

`keys/rotation.py` and `oauth/document_probe.py` list their own.
"""
