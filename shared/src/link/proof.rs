//! The proof in HELLO that the guest's root speaks: HMAC-SHA-256 of the challenge's nonce under the link key.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::secret::SecretKey;

/// The name under which QEMU gives a guest its link key: the item of the machine's firmware configuration, whose content
/// is the key's 32 bytes.
pub const FW_CFG_NAME: &str = "opt/org.moorline.link-key";

/// What HELLO carries as `proof` in answer to a challenge with this nonce.
pub fn proof(key: &SecretKey, nonce: &[u8; 16]) -> [u8; 32] {
    mac(key, nonce).finalize().into_bytes().into()
}

/// Whether it was made with the key, of the nonce. It takes as long whatever is wrong with it.
pub fn proves(key: &SecretKey, nonce: &[u8; 16], proof: &[u8; 32]) -> bool {
    mac(key, nonce).verify(proof.into()).is_ok()
}

fn mac(key: &SecretKey, nonce: &[u8; 16]) -> Hmac<Sha256> {
    // A block has 64 bytes, and a key of 32 is padded to that as any shorter key is (RFC 2104).
    let mut block = zeroize::Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.expose());
    Hmac::new((&*block).into()).chain_update(nonce)
}

#[cfg(test)]
mod tests {
    use super::{proof, proves};
    use crate::secret::SecretKey;

    #[test]
    fn only_the_right_key_proves_and_only_this_nonce() {
        let (key, nonce) = (SecretKey::from([1; 32]), [2; 16]);
        let made = proof(&key, &nonce);
        assert!(proves(&key, &nonce, &made));
        assert!(!proves(&key, &[3; 16], &made));
        assert!(!proves(&SecretKey::from([4; 32]), &nonce, &made));
        for byte in 0..made.len() {
            let mut bent = made;
            bent[byte] ^= 1;
            assert!(!proves(&key, &nonce, &bent), "byte {byte}");
        }
    }
}
