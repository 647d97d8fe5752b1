//! Hosts' certificates in other hands than they were made for, over real TLS.

use super::{refused, stands};
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_client::{Client, Identity, fresh_key};
use moorline_lab::deployment::{
    ControlPlane, Deployment, Further, PATIENCE, Plan, Programs, free_port, host_name, state_folder,
};
use moorline_lab::wait;
use moorline_shared::api::data::PutEntry;
use moorline_shared::api::enrolment::RenewHostCertificate;
use moorline_shared::api::feed::{OpenFeed, SetInterests, ViewId};
use moorline_shared::api::hosts::{HostStanding, RegisterHost, ReportState};
use moorline_shared::api::instances::InstanceState;
use moorline_shared::api::session::CreateInstanceSession;
use moorline_shared::{HostId, InstanceId};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::collections::BTreeMap;
use std::path::Path;

#[tokio::test]
async fn a_certificate_that_two_daemons_use_is_refused_to_both_until_one_is_enrolled_anew() -> Result<()> {
    // They ask for their next certificates within seconds.
    let plan = Plan::new(Programs::build().await?).control_setting("host_certificates = 20");
    let mut deployment = plan.start().await?;
    let mut copy = deployment.copy_of_host("copy").await?;
    copy.launch()?;
    let what_to_do = "moorline host enroll-token host-1";
    stands(deployment.control(), "host-1", HostStanding::Cloned)
        .await
        .with_context(|| format!("{}\n{}", deployment.last_words(), copy.said()))?;
    for client in [deployment.client_of_host()?, copy.client(&deployment)?] {
        let told = refused("one of the two", "host-cloned", client.describe_hosts().await)?;
        ensure!(told.contains(what_to_do), "{told}");
    }
    let both_say = async || {
        let (first, second) = (deployment.host_said(), copy.said());
        let says = |said: &str| said.contains("host-cloned") || said.contains(what_to_do);
        (says(&first) && says(&second)).then_some(())
    };
    wait::until("both daemons to say what to do", PATIENCE, both_say)
        .await
        .with_context(|| format!("{}\n{}", deployment.last_words(), copy.said()))?;
    let status = deployment.admin_socket()?.status().await?;
    ensure!(!status.feed.in_step, "the feed goes on");

    the_operator_says_which_it_is(&mut deployment).await?;
    // What the copy has is of the enrolment before, and takes nothing from the host any more.
    copy.kill().await?;
    copy.launch()?;
    let turned_away = async || copy.said().contains("is not enrolled").then_some(());
    wait::until("the copy to be turned away", PATIENCE, turned_away)
        .await
        .with_context(|| copy.said())?;
    deployment.client_of_host()?.describe_hosts().await?;
    stands(deployment.control(), "host-1", HostStanding::Enrolled).await
}

/// The operator enrols the right machine anew and starts its daemon again.
async fn the_operator_says_which_it_is(deployment: &mut Deployment) -> Result<()> {
    let state = deployment.folder().join("host");
    deployment.kill_host().await?;
    deployment.control().enrol_daemon(&host_name(), &state).await?;
    deployment.start_host().await?;
    let admin = deployment.admin_socket()?;
    let in_step = async || admin.status().await.ok()?.feed.in_step.then_some(());
    wait::until("the host to be in step again", PATIENCE, in_step)
        .await
        .with_context(|| deployment.last_words())
}

#[tokio::test]
async fn a_daemon_whose_certificate_expired_renews_it_and_goes_on() -> Result<()> {
    let plan = Plan::new(Programs::build().await?).control_setting("host_certificates = 5");
    let deployment = plan.start().await?;
    let host: HostId = "host-2".parse()?;
    let mut second: Further = deployment.further_host(&host, "second")?;
    deployment.control().enrol_daemon(&host, &second.state()).await?;
    let client = second.client(&deployment)?;
    expires(&client).await?;
    let told = refused("a request", "certificate-expired", client.describe_hosts().await)?;
    ensure!(told.contains("renewal only"), "{told}");
    let opened = client.open_feed(&host, &OpenFeed::default()).await;
    refused("the feed", "certificate-expired", opened.map(drop))?;
    second.launch()?;
    let in_step = async || second.status().await?.feed.in_step.then_some(());
    wait::until("the daemon to go on", PATIENCE, in_step)
        .await
        .with_context(|| second.said())
}

/// Waits until the certificate that the client shows is over.
async fn expires(client: &Client) -> Result<()> {
    let over = async || client.describe_hosts().await.is_err().then_some(());
    wait::until("the certificate's end", PATIENCE, over).await
}

/// A control plane with a host that the test speaks for and an instance on another.
struct Two {
    control: ControlPlane,
    own: HostId,
    other: HostId,
    instance: InstanceId,
    _folder: tempfile::TempDir,
}

impl Two {
    async fn start() -> Result<Self> {
        let folder = state_folder()?;
        let control = start(folder.path()).await?;
        let (own, other): (HostId, HostId) = ("h1".parse()?, "h2".parse()?);
        let client = control.enrol(&other).await?;
        client.register_host(&other, &offer()?, &fresh_key()).await?;
        let body = moorline_shared::api::instances::RegisterInstance {
            host: other.clone(),
            id: None,
            name: None,
            tags: Vec::new(),
            roles: Default::default(),
            data: BTreeMap::from([("db/password".parse()?, PutEntry::secret("a secret".into()))]),
        };
        let made = control.client().register_instance(&body, &fresh_key()).await?;
        let instance = made.instances.first().context("an instance")?.id;
        Ok(Self {
            control,
            own,
            other,
            instance,
            _folder: folder,
        })
    }
}

async fn start(folder: &Path) -> Result<ControlPlane> {
    ControlPlane::start_at(free_port()?, &Programs::build().await?, folder, Vec::new()).await
}

fn offer() -> Result<RegisterHost> {
    Ok(RegisterHost {
        zone: "zone-1".parse()?,
        vcpus: 1,
        memory_mib: 1,
        images: Vec::new(),
    })
}

#[tokio::test]
async fn a_host_gets_nothing_of_another_by_its_own_certificate() -> Result<()> {
    let two = Two::start().await?;
    let client = two.control.enrol(&two.own).await?;
    client.register_host(&two.own, &offer()?, &fresh_key()).await?;
    let other = &two.other;
    let key = fresh_key;
    let denied = "access-denied";
    let offered = client.register_host(other, &offer()?, &key()).await;
    refused("to register as it", denied, offered)?;
    let opened = client.open_feed(other, &OpenFeed::default()).await;
    refused("its feed", denied, opened.map(drop))?;
    let view = ViewId::own(two.instance);
    refused(
        "a view by its route",
        denied,
        client.get_feed_view(other, view).await,
    )?;
    let by_own = client.get_feed_view(&two.own, view).await;
    ensure!(by_own.is_err(), "a view by its own route: {by_own:?}");
    let interests = SetInterests::default();
    refused(
        "its interests",
        denied,
        client.set_interests(other, &interests).await,
    )?;
    let report = ReportState {
        instance: two.instance,
        state: InstanceState::Running,
        incarnation: 9,
        reboots: 0,
        reason: None,
    };
    for host in [other, &two.own] {
        let reported = client.report_instance_state(host, &report, &key()).await;
        ensure!(reported.is_err(), "a report of its instance: {reported:?}");
    }
    let asked = CreateInstanceSession {
        incarnation: 1,
        instead_of: None,
    };
    for host in [other, &two.own] {
        let given = client.create_instance_session(host, two.instance, &asked).await;
        ensure!(given.is_err(), "a session of its instance: {given:?}");
        let token = client.create_identity_token(host, two.instance, "anybody").await;
        ensure!(token.is_err(), "an identity token of its instance: {token:?}");
    }
    let renewed = client.renew_host_certificate(other, &request()?, &key()).await;
    refused("its certificate", denied, renewed)?;
    let revoked = client.revoke_host(other, &key()).await;
    refused("to revoke it", denied, revoked).map(drop)
}

fn request() -> Result<RenewHostCertificate> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::default().serialize_request(&key)?;
    Ok(RenewHostCertificate {
        request: STANDARD.encode(request.der()),
    })
}

#[tokio::test]
async fn a_certificate_that_another_authority_made_opens_no_connection() -> Result<()> {
    let two = Two::start().await?;
    let folder = state_folder()?;
    let elsewhere = start(folder.path()).await?;
    let strangers = [
        ("another deployment's", elsewhere.identity(&two.other).await?),
        ("one that it made itself", self_made(&two.other)?),
    ];
    for (whose, identity) in strangers {
        let client = two.control.client_as(identity)?;
        let error = client.describe_hosts().await.err();
        let error = format!("{:?}", error.with_context(|| format!("{whose} is taken"))?);
        ensure!(error.contains("OurCertificate"), "{whose}: {error}");
        let renewed = client
            .renew_host_certificate(&two.other, &request()?, &fresh_key())
            .await;
        ensure!(renewed.is_err(), "{whose} is renewed");
    }
    Ok(())
}

/// A certificate that says all that a host's says.
fn self_made(host: &HostId) -> Result<Identity> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    let uri = format!("spiffe://moorline/host/{host}");
    params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
    params.distinguished_name.push(DnType::CommonName, host.as_str());
    params
        .distinguished_name
        .push(DnType::CustomDnType(vec![2, 5, 4, 46]), "1");
    let certificate = CertificateDer::from(params.self_signed(&key)?.der().to_vec());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Identity::new(certificate, key))
}
