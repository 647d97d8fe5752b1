//! Passwords: hashed by Argon2id, which takes 19 MiB and some milliseconds on purpose, away from the threads that serve.

use std::sync::{Arc, LazyLock};

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use moorline_shared::api::identity::{MAX_PASSWORD_BYTES, MIN_PASSWORD_CHARS};
use moorline_shared::entry::Value;
use moorline_shared::secret::Secret;
use moorline_shared::{Digest, OperationId, UserName};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::master::{MasterKey, Purpose, UnsealError};
use super::rules::users::digest;

/// How many are hashed at once; others wait for their turn.
const AT_ONCE: usize = 2;
/// How many may wait. More are told to come again.
const WAITING: usize = 64;

/// Hashes passwords, a few at a time.
#[derive(Debug)]
pub struct Passwords {
    master: Arc<MasterKey>,
    turns: Arc<Semaphore>,
    seats: Arc<Semaphore>,
}

/// Why a password is not hashed or checked.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// It is no password.
    #[error(
        "a password has {MIN_PASSWORD_CHARS} characters or more, and {MAX_PASSWORD_BYTES} bytes or fewer"
    )]
    Bounds,
    /// Too many wait for theirs.
    #[error("too many passwords are being checked; try again in a moment")]
    Busy,
    /// What is kept of it can't be used.
    #[error("what is kept of the password of {user} can't be used")]
    Sealed {
        /// Whose.
        user: UserName,
        /// Why.
        source: UnsealError,
    },
    /// It could not be hashed.
    #[error("the password could not be hashed")]
    Hash,
}

impl Passwords {
    /// Hashes are kept under `master`.
    pub fn new(master: Arc<MasterKey>) -> Self {
        Self {
            master,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            seats: Arc::new(Semaphore::new(AT_ONCE + WAITING)),
        }
    }

    /// The hash of a new password of `user`, under the master key. Cancel-safe: the work is done for nothing.
    ///
    /// It is salted with the operation that sets it, whose id is no other's: an operation that is sent again comes to the
    /// same bytes, and the same password set again to others.
    ///
    /// # Errors
    /// [`PasswordError`], the password's bounds among them.
    pub async fn hash(
        &self,
        user: &UserName,
        password: Secret,
        operation: OperationId,
    ) -> Result<Value, PasswordError> {
        let text = password.expose();
        if text.chars().count() < MIN_PASSWORD_CHARS || text.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::Bounds);
        }
        let salt = *Digest::of_parts([&bound_to(user)[..], operation.digest().bytes()]).bytes();
        let hash = self.work(move || hash(&password, &salt)).await??;
        let sealed = self
            .master
            .seal(Purpose::Password, &bound_to(user), &salt, hash.as_bytes());
        Ok(bytes::Bytes::from(sealed).into())
    }

    /// What `kept` is known by to the rules if it is of this password. A user who has none takes as long. Cancel-safe.
    ///
    /// # Errors
    /// [`PasswordError`], not for a wrong password: that is `None`.
    pub async fn check(
        &self,
        user: &UserName,
        kept: Option<&Value>,
        password: Secret,
    ) -> Result<Option<Digest>, PasswordError> {
        let hash = match kept {
            Some(sealed) => self.unseal(user, sealed)?,
            None => Zeroizing::new(NOBODYS.clone()),
        };
        let is_it = self.work(move || is(&hash, &password)).await?;
        Ok(kept.filter(|_| is_it).map(digest))
    }

    fn unseal(&self, user: &UserName, sealed: &Value) -> Result<Zeroizing<String>, PasswordError> {
        let failed = |source| PasswordError::Sealed {
            user: user.clone(),
            source,
        };
        let opened = self
            .master
            .unseal(Purpose::Password, &bound_to(user), sealed.bytes())
            .map_err(failed)?;
        let text = std::str::from_utf8(&opened).map_err(|_| failed(UnsealError::Form))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Does `work` on a thread that may block, when it is its turn. What was begun is finished, whoever still waits for
    /// it, and has its turn and its seat until then.
    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let seat = seat.map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| PasswordError::Busy)?;
        let working = tokio::task::spawn_blocking(move || {
            let done = work();
            drop((turn, seat));
            done
        });
        working.await.map_err(|_| PasswordError::Hash)
    }
}

/// A hash opens under its own user only.
fn bound_to(user: &UserName) -> Vec<u8> {
    format!("user/{user}/password").into_bytes()
}

/// The hash of something that nobody can type, so that a user who isn't there can't be told by the time it takes.
static NOBODYS: LazyLock<String> = LazyLock::new(|| {
    let nobodys = Secret::from("\u{0}".repeat(MIN_PASSWORD_CHARS));
    hash(&nobodys, &[0; 32])
        .map(|hash| hash.to_string())
        .unwrap_or_default()
});

fn hash(password: &Secret, salt: &[u8; 32]) -> Result<Zeroizing<String>, PasswordError> {
    let salt = SaltString::encode_b64(&salt[..16]).map_err(|_| PasswordError::Hash)?;
    // The default is Argon2id with 19 MiB and two passes.
    let hash = Argon2::default().hash_password(password.expose().as_bytes(), &salt);
    hash.map(|hash| Zeroizing::new(hash.to_string()))
        .map_err(|_| PasswordError::Hash)
}

fn is(hash: &str, password: &Secret) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.expose().as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[tokio::test]
    async fn a_password_is_known_again_under_its_own_user_only() {
        let passwords = Passwords::new(Arc::new(MasterKey::new(&[7; 32].into())));
        let (ann, bob): (UserName, UserName) = ("ann".parse().unwrap(), "bob".parse().unwrap());
        let operation = |n: u8| OperationId::from(Digest::of(&[n]));
        let kept = passwords
            .hash(&ann, secret("correct horse"), operation(1))
            .await
            .unwrap();
        let [again, another] = [1, 2].map(|n| passwords.hash(&ann, secret("correct horse"), operation(n)));
        assert_eq!(again.await.unwrap(), kept, "the same operation");
        assert_ne!(another.await.unwrap(), kept);
        assert!(!String::from_utf8_lossy(kept.bytes()).contains("argon2"));
        let check = |user, password| passwords.check(user, Some(&kept), secret(password));
        assert_eq!(check(&ann, "correct horse").await.unwrap(), Some(digest(&kept)));
        assert_eq!(check(&ann, "correct house").await.unwrap(), None);
        assert!(matches!(
            check(&bob, "correct horse").await,
            Err(PasswordError::Sealed { .. })
        ));
        let nobody = passwords.check(&bob, None, secret("correct horse")).await;
        assert_eq!(nobody.unwrap(), None);
        for short in ["seven77", &"x".repeat(1_025)] {
            let refused = passwords.hash(&ann, secret(short), operation(3)).await;
            assert!(matches!(refused, Err(PasswordError::Bounds)));
        }
    }

    #[tokio::test]
    async fn whoever_hangs_up_keeps_their_seat_until_the_work_is_done() {
        let passwords = Passwords::new(Arc::new(MasterKey::new(&[7; 32].into())));
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let mut working = Box::pin(passwords.work(move || wait.recv()));
        // Polled once, it has a seat and is begun; then nobody waits for it any more.
        assert!(futures_util::poll!(working.as_mut()).is_pending());
        drop(working);
        assert_eq!(passwords.seats.available_permits(), AT_ONCE + WAITING - 1);
        assert_eq!(passwords.turns.available_permits(), AT_ONCE - 1);
        done.send(()).unwrap();
        let all = u32::try_from(AT_ONCE + WAITING).unwrap();
        let _free = passwords.seats.acquire_many(all).await.unwrap();
    }

    #[test]
    fn hashes_are_of_the_function_and_the_cost_that_were_decided() {
        let hash = hash(&secret("correct horse"), &[1; 32]).unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{}",
            &hash[..40]
        );
    }
}
