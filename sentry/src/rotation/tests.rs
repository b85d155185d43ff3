use super::*;

const DAY: Duration = Duration::from_hours(24);

fn rules() -> Rules {
    Rules {
        authority: NewAuthority {
            trust_domain: "cluster.local".into(),
            namespace: "dapr-system".into(),
            skew: Duration::from_mins(15),
            ttl: 365 * DAY,
        },
        distribute: DAY,
        overlap: DAY,
    }
}

fn fresh(rules: &Rules, now: SystemTime) -> Stored {
    let mut contents = Contents::default();
    contents.set_material(&rules.authority.generate(now, None).unwrap());
    stored(contents)
}

fn stored(contents: Contents) -> Stored {
    Stored {
        published_ca: contents.ca.clone(),
        published_jwks: None,
        version: String::new(),
        contents,
    }
}

/// What is written, and what is told of it: of the phase by whoever comes upon it, of the end before it is written.
fn saved(step: Step) -> (Stored, Option<&'static str>) {
    match step {
        Step::Save(contents) => {
            let rotation = Rotation::read(&contents).unwrap();
            let news = rotation.and_then(|rotation| rotation.phase_news());
            (stored(*contents), news.map(|news| news.reason))
        }
        Step::End(contents, news) => (stored(*contents), Some(news.reason)),
        other => panic!("{other:?}"),
    }
}

fn phase(stored: &Stored) -> Option<Phase> {
    Rotation::read(&stored.contents)
        .unwrap()
        .map(|rotation| rotation.phase)
}

fn roots(stored: &Stored, now: SystemTime) -> usize {
    Bundle::read(&stored.contents.material().unwrap(), now)
        .unwrap()
        .anchors()
        .len()
}

#[test]
fn an_authority_of_ours_is_replaced_in_phases_before_it_expires() {
    let (rules, mut now) = (rules(), SystemTime::now());
    let first = fresh(&rules, now);
    assert_eq!(rules.step(&first, now).unwrap(), Step::Wait);
    now += 250 * DAY;
    let (second, news) = saved(rules.step(&first, now).unwrap());
    let seen = (phase(&second), news, roots(&second, now));
    assert_eq!(seen, (Some(Phase::Distribute), Some("RootRotationStarted"), 2));
    assert_eq!(second.contents.issuer_cert, first.contents.issuer_cert);
    assert_eq!(rules.step(&second, now + DAY / 2).unwrap(), Step::Wait);

    now += DAY;
    let (third, news) = saved(rules.step(&second, now).unwrap());
    let seen = (phase(&third), news, roots(&third, now));
    assert_eq!(seen, (Some(Phase::Switch), Some("RootRotationSwitched"), 2));
    assert_ne!(third.contents.issuer_cert, first.contents.issuer_cert);

    now += DAY;
    let (fourth, news) = saved(rules.step(&third, now).unwrap());
    let seen = (phase(&fourth), news, roots(&fourth, now));
    assert_eq!(seen, (Some(Phase::Withdraw), Some("RootRotationWithdrawn"), 1));
    let (fifth, news) = saved(rules.step(&fourth, now).unwrap());
    let seen = (phase(&fifth), news, roots(&fifth, now));
    assert_eq!(seen, (None, Some("RootRotationFinished"), 1));
    assert_eq!(rules.step(&fifth, now).unwrap(), Step::Wait);

    // The successor is ours as well, and has one when its time comes.
    now += 250 * DAY;
    let (sixth, _) = saved(rules.step(&fifth, now).unwrap());
    assert_eq!((phase(&sixth), roots(&sixth, now)), (Some(Phase::Distribute), 2));
}

#[test]
fn who_knows_only_the_old_root_accepts_what_the_new_issuer_signs() {
    let (rules, now) = (rules(), SystemTime::now());
    let first = rules.authority.generate(now, None).unwrap();
    let old = Bundle::read(&first, now).unwrap();
    let second = rules.authority.generate(now, Some(&old)).unwrap();
    // And so does who missed two changes.
    let third = rules
        .authority
        .generate(now, Some(&Bundle::read(&second, now).unwrap()))
        .unwrap();
    for (ca, material) in [
        (&first.ca, &second),
        (&second.ca, &second),
        (&first.ca, &third),
        (&second.ca, &third),
        (&third.ca, &third),
    ] {
        let material = Material {
            ca: ca.clone(),
            ..material.clone()
        };
        Bundle::read(&material, now).expect("the chain ends at each root");
    }
}

#[test]
fn a_crash_after_the_writing_down_is_made_good() {
    let (rules, mut now) = (rules(), SystemTime::now());
    let first = fresh(&rules, now);
    now += 250 * DAY;
    let (second, _) = saved(rules.step(&first, now).unwrap());
    // Only the plan was written.
    let torn = stored(Contents {
        rotation: second.contents.rotation.clone(),
        ..first.contents.clone()
    });
    let (mended, _) = saved(rules.step(&torn, now).unwrap());
    assert_eq!(mended.contents, second.contents);
    // All was written but not published.
    let unpublished = Stored {
        published_ca: first.published_ca,
        ..second
    };
    assert_eq!(rules.step(&unpublished, now + 2 * DAY).unwrap(), Step::Publish);
}

#[test]
fn an_authority_of_somebody_else_is_never_replaced() {
    let (rules, now) = (rules(), SystemTime::now());
    let theirs = Rules {
        authority: NewAuthority {
            trust_domain: "corp".into(),
            ..rules.authority.clone()
        },
        ..rules
    };
    let mut first = fresh(&theirs, now);
    assert_eq!(rules.step(&first, now + 360 * DAY).unwrap(), Step::Wait);
    first.contents.rotation = Some(Rotation::request(now).text());
    let (after, news) = saved(rules.step(&first, now).unwrap());
    assert_eq!(
        (after.contents.rotation.as_ref(), news),
        (None, Some("RootRotationRefused"))
    );
    assert_eq!(after.contents.material(), first.contents.material());
}

#[test]
fn a_change_can_be_asked_for_and_foreign_roots_stay() {
    let (rules, now) = (rules(), SystemTime::now());
    let mut first = fresh(&rules, now);
    let foreign = rules.authority.generate(now, None).unwrap().ca;
    first.contents.ca = first.contents.ca.map(|ca| ca + &foreign);
    first.published_ca = first.contents.ca.clone();
    first.contents.rotation = Some(Rotation::request(now).text());
    let (second, _) = saved(rules.step(&first, now).unwrap());
    assert_eq!(roots(&second, now), 3);
    let (third, _) = saved(rules.step(&second, now + DAY).unwrap());
    let (fourth, _) = saved(rules.step(&third, now + 2 * DAY).unwrap());
    assert!(fourth.contents.ca.as_ref().unwrap().contains(&foreign));
    assert_eq!(roots(&fourth, now), 2);
}

#[test]
fn a_state_that_cannot_be_read_stops_the_change_and_names_the_remedy() {
    let (rules, now) = (rules(), SystemTime::now());
    let mut first = fresh(&rules, now);
    for text in ["", "{", "{\"phase\":\"switch\",\"reason\":\"\",\"since\":\"\"}"] {
        first.contents.rotation = Some(text.to_owned());
        let error = rules.step(&first, now).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
    }
}
