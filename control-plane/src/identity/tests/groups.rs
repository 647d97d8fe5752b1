//! Groups at their bounds.

use moorline_shared::Principal;
use moorline_shared::api::identity::AccountRole;

use super::{World, caller, kind_of};
use crate::identity::Op;
use crate::identity::rules::groups::{MAX_MEMBERS, MAX_MEMBERSHIPS};
use crate::model::Role;

impl World {
    async fn administer(&self, op: Op) -> Result<(), String> {
        let result = self.run(op, caller("root", Role::Administrator)).await;
        match result {
            Ok(_) => Ok(()),
            refused => Err(kind_of(refused)),
        }
    }

    async fn user(&self, name: &str) -> Principal {
        let user = name.parse().unwrap();
        let (role, password) = (AccountRole::Member, None);
        self.administer(Op::CreateUser { user, role, password })
            .await
            .unwrap();
        Principal::User(name.parse().unwrap())
    }

    async fn group(&self, name: &str) {
        let group = name.parse().unwrap();
        self.administer(Op::CreateGroup { group }).await.unwrap();
    }

    async fn join(&self, group: &str, member: &Principal) -> Result<(), String> {
        let (group, member) = (group.parse().unwrap(), member.clone());
        self.administer(Op::AddGroupMember { group, member }).await
    }
}

#[tokio::test]
async fn a_full_group_can_be_deleted() {
    let world = World::new().await;
    world.group("all").await;
    for n in 0..MAX_MEMBERS {
        let user = world.user(&format!("u{n}")).await;
        world.join("all", &user).await.unwrap();
    }
    let more = world.user("more").await;
    assert_eq!(world.join("all", &more).await, Err("quota".to_owned()));
    let group = "all".parse().unwrap();
    assert_eq!(world.administer(Op::DeleteGroup { group }).await, Ok(()));
}

#[tokio::test]
async fn a_user_with_all_that_a_user_can_have_can_be_deleted() {
    let world = World::new().await;
    let ann = world.user("ann").await;
    for n in 0..MAX_MEMBERSHIPS {
        let group = format!("g{n}");
        world.group(&group).await;
        world.join(&group, &ann).await.unwrap();
    }
    world.group("more").await;
    assert_eq!(world.join("more", &ann).await, Err("quota".to_owned()));
    for _ in 0..crate::identity::rules::sessions::MAX_SESSIONS {
        world.session("ann").await;
    }
    let user = "ann".parse().unwrap();
    assert_eq!(world.administer(Op::DeleteUser { user }).await, Ok(()));
    world.replay().await;
}
