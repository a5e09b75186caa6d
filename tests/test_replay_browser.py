"""The page in a real browser, from file://: what a person with a mouse, a keyboard or a phone would do."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from browser import chromium, complaints, requests
from recorded import make_episode, make_spec
from replayed import synthetic
from test_replay_page import recorded

from robot_value.episodes.findings import Finding
from robot_value.replay.decided import Kept
from robot_value.replay.page import render
from robot_value.replay.report import Mark, Report
from robot_value.replay.shards import Pictures, shard, shard_name
from robot_value.replay.subgoals import of_episode
from robot_value.replay.timelines import write_timelines

EVIL = "</script><img src=x onerror=document.title='broken'>"
EPISODES, SHARDS = 2000, 12


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """2000 rows, of which the first 12 have a shard; episode 3 has a hostile name and task."""
    spec = make_spec(cameras=("front",))
    replayed = synthetic(episodes=EPISODES, critics={"main": 0.1, "other": 0.3})
    facts = list(replayed.episodes)
    facts[3] = replace(facts[3], name=EVIL, task=EVIL)
    report = Report(
        replace(replayed, spec=spec.choose(n_obs_steps=1), episodes=tuple(facts)),
        Kept({e.name: make_episode(spec, e.steps, i) for i, e in enumerate(facts[:SHARDS])}),
        title=EVIL,
        findings=[Finding(EVIL, "look", (EVIL, facts[5].name)), Finding("everywhere", "look")],
        marks=[Mark(5, 7, "value drops")],
        limits={"main": np.full(len(replayed), 0.3)},
    )
    folder = tmp_path_factory.mktemp("page")
    (folder / "data").mkdir()
    for number in range(SHARDS):
        (folder / shard_name(number)).write_text(shard(report, number, Pictures()), encoding="utf-8")
    (folder / "report.html").write_text(render(report), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(page):
    with chromium() as driver:
        yield driver


@pytest.fixture
def shown(browser, page):
    """The page, opened anew; afterwards nobody has complained and nothing but files was asked for."""
    look_at(browser, page)
    yield browser
    assert complaints(browser) == []
    assert [address for address in requests(browser) if not address.startswith(("file://", "data:"))] == []


def look_at(browser, address):
    browser.get("data:,")  # another address of one page would not load it again
    complaints(browser), requests(browser)  # of whoever was here before
    browser.get(address)


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def until(browser, script, expected=True):
    """Waits at most 8 s; a failure shows what was there."""
    end = time.monotonic() + 8
    while (found := browser.execute_script(f"return {script}")) != expected and time.monotonic() < end:
        time.sleep(0.02)
    assert found == expected


def at_step(browser, step):
    until(browser, "document.getElementById('now').textContent.split(' of')[0]", f"step {step}")


def click(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def test_test_episodes_of_a_study_show_their_decisions_and_subgoals(browser, tmp_path):
    # mutation: no row of subgoals; an arm without scores breaks the chart
    plain = recorded(n=1, value=np.full((1, 1), np.nan), spread=np.full((1, 1), np.nan))
    played = {"base": {7: plain}, "argmax": {7: recorded(steps=40)}}
    look_at(browser, f"{write_timelines(tmp_path, played, 'walk', 0.9).as_uri()}#episode=0")
    for number, name in enumerate(("base, seed 7", "argmax, seed 7")):
        browser.execute_script(f"location.hash = '#episode={number}'")
        until(browser, "document.getElementById('name').textContent", name)
        until(browser, "document.querySelectorAll('#charts svg').length > 1")
    goals = len(of_episode(recorded(steps=40)))
    assert goals > 1
    until(browser, "document.querySelectorAll('#charts .part0, #charts .part1').length", goals)
    assert complaints(browser) == []


ROWS = "document.querySelectorAll('#table tbody tr:not(.gap)').length"


def test_two_thousand_episodes_are_a_few_rows_until_one_scrolls(shown):
    # mutation: rows for all of `order`
    assert 5 < shown.execute_script(f"return {ROWS}") < 60
    shown.execute_script("document.getElementById('scroller').scrollTop = 36 * 1500")
    until(shown, "[...document.querySelectorAll('#table a')].some(a => a.textContent === 'episode_1503')")
    assert shown.execute_script(f"return {ROWS}") < 60


def test_a_click_opens_an_episode_and_keys_scrub_it(shown):
    # mutation: shift is ignored; a step too far
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    shown.find_element(By.LINK_TEXT, "episode_0002").click()
    until(shown, "document.querySelectorAll('#charts svg').length > 2")
    at_step(shown, 0)
    press(shown, Keys.ARROW_RIGHT * 3, Keys.ARROW_LEFT)
    at_step(shown, 2)
    ActionChains(shown).key_down(Keys.SHIFT).send_keys(Keys.ARROW_RIGHT).key_up(Keys.SHIFT).perform()
    at_step(shown, 4)
    press(shown, Keys.END)
    last = shown.execute_script("return document.getElementById('step').max")
    at_step(shown, last)
    press(shown, Keys.ARROW_RIGHT)
    at_step(shown, last)
    press(shown, Keys.HOME)
    at_step(shown, 0)


def test_space_plays_to_the_end_at_the_robots_pace_and_stops(shown, page):
    # mutation: one step per animation frame
    look_at(shown, f"{page}#episode=1&step=0")
    at_step(shown, 0)
    steps = int(shown.execute_script("return document.getElementById('step').max"))
    began = time.monotonic()
    press(shown, " ")
    at_step(shown, steps)
    assert time.monotonic() - began > 0.9 * steps * 0.05
    until(shown, "document.getElementById('play').getAttribute('aria-label')", "play")


def test_a_permalink_survives_a_reload(shown, page):
    # mutation: the address is never written
    look_at(shown, f"{page}#episode=4&step=6")
    at_step(shown, 6)
    press(shown, "\ue014")
    at_step(shown, 7)
    until(shown, "location.hash", "#episode=4&step=7")
    shown.refresh()
    at_step(shown, 7)
    until(shown, "document.getElementById('name').textContent", "episode_0004")


def test_j_and_k_follow_the_order_of_the_table(shown):
    # mutation: episode + 1
    from selenium.webdriver.common.by import By

    shown.find_element(By.ID, "text").send_keys("episode_000")
    click(shown, "#table thead th:nth-child(3) button")
    until(shown, "document.querySelector('#table th[aria-sort=ascending]').textContent", "steps")
    names = shown.execute_script("return [...document.querySelectorAll('#table tbody a')].map(a => a.textContent)")
    assert names != sorted(names)
    shown.execute_script("document.activeElement.blur()")
    for key, expected in (("j", names[0]), ("j", names[1]), ("k", names[0])):
        press(shown, key)
        until(shown, "document.getElementById('name').textContent", expected)


def test_filters_leave_what_they_say(shown):
    # mutation: from and to exchanged
    from selenium.webdriver.common.by import By

    shown.find_element(By.ID, "text").send_keys("episode_19")
    until(shown, "document.getElementById('count').textContent", "100 of 2000 episodes")
    click(shown, "#filters [type=reset]")
    until(shown, "document.getElementById('count').textContent", "2000 episodes")
    shown.find_element(By.ID, "steps-from").send_keys("24")
    until(shown, "[...document.querySelectorAll('#table td:nth-child(3)')].every(td => td.textContent === '24')")
    click(shown, "#filters [type=reset]")
    click(shown, "#warnings button")
    until(shown, "document.getElementById('count').textContent", "2 of 2000 episodes")


def test_hostile_texts_are_shown_and_not_run(shown, page):
    # mutation: innerHTML for the name or the finding
    look_at(shown, f"{page}#episode=3")
    until(shown, "document.getElementById('name').textContent", EVIL)
    at_step(shown, 0)
    assert shown.title == EVIL and EVIL in shown.execute_script("return document.body.innerText")
    assert shown.execute_script("return document.querySelectorAll('img[src=x]').length") == 0


def test_a_drag_over_the_chart_and_a_mark_lead_to_their_steps(shown, page):
    # mutation: the margin is forgotten
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    shown.find_element(By.CSS_SELECTOR, "#marks a").click()
    at_step(shown, 7)
    chart = shown.find_element(By.CSS_SELECTOR, "#charts .panel svg")
    shown.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    ActionChains(shown).move_to_element(chart).click_and_hold().move_by_offset(250, 0).release().perform()
    steps, width = int(shown.execute_script("return document.getElementById('step').max")), chart.size["width"]
    at_step(shown, round((width / 2 + 250 - 58) / (width - 68) * steps))


def test_a_missing_shard_is_said_in_plain_words(browser, page):
    # mutation: no onerror
    look_at(browser, f"{page}#episode=100")
    until(browser, "document.getElementById('trouble').textContent.startsWith('expected data/episode_000100.js')")
    assert browser.execute_script("return document.getElementById('loaded').hidden")


def test_help_opens_by_its_key_and_everything_has_a_name(shown, page):
    # mutation: a button with a symbol and no aria-label
    look_at(shown, f"{page}#episode=0")
    at_step(shown, 0)
    press(shown, "?")
    until(shown, "document.getElementById('help').open")
    nameless = """[...document.querySelectorAll('button, input, select, a, svg[role=img], img')].filter(e =>
      !e.textContent.trim() && !e.getAttribute('aria-label') && !e.labels?.length && e.getAttribute('alt') === null)"""
    assert shown.execute_script(f"return {nameless}.map(e => e.outerHTML)") == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling_and_texts_have_contrast(page, dark):
    # mutation: a chart of fixed width; ink that forgets the dark page
    with chromium(width=390, height=844, dark=dark) as phone:
        phone.get(f"{page}#episode=0")
        at_step(phone, 0)
        assert phone.execute_script("return document.documentElement.scrollWidth") <= 390
        ink, paper = (
            phone.execute_script(f"return getComputedStyle(document.body).{each}.match(/\\d+/g).map(Number)")
            for each in ("color", "backgroundColor")
        )
        assert abs(np.mean(ink) - np.mean(paper)) > 150 and (np.mean(paper) < 60) == dark
        assert complaints(phone) == []
