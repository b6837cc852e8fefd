-- What was known of each day, from when on: fixtures as announced, moved and called off, and
-- promotions. Runs on Spark and on DuckDB alike.
--
-- A notice holds until the next one about the same fixture lands: it adds the match to its day
-- then, and takes it away when it is replaced. Whole numbers, so that what is taken away leaves
-- nothing behind. A day gets a row for each date on which something about it changed.
WITH notices AS (
    SELECT
        fixtures.*,
        LEAD(landed_on) OVER (PARTITION BY fixture ORDER BY landed_on) AS replaced_on
    FROM fixtures
),
changes AS (
    SELECT
        plays_on AS day,
        landed_on AS known_on,
        CASE WHEN status = 'scheduled' THEN 1 ELSE 0 END AS held,
        CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END AS cancelled,
        start_hour,
        tournament,
        sport,
        stage,
        home,
        away,
        0 AS prize_pool
    FROM notices
    UNION ALL
    SELECT
        plays_on,
        replaced_on,
        CASE WHEN status = 'scheduled' THEN -1 ELSE 0 END,
        CASE WHEN status = 'cancelled' THEN -1 ELSE 0 END,
        start_hour,
        tournament,
        sport,
        stage,
        home,
        away,
        0
    FROM notices
    WHERE replaced_on IS NOT NULL
    UNION ALL
    SELECT promoted_on, landed_on, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, prize_pool
    FROM promotions
),
revisions AS (
    SELECT
        day,
        known_on,
        CAST(SUM(SUM(held)) OVER so_far AS DOUBLE) AS num_matches,
        CAST(SUM(SUM(CASE WHEN sport = 't20' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_t20,
        CAST(SUM(SUM(CASE WHEN sport = 'odi' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_odi,
        CAST(SUM(SUM(CASE WHEN sport = 'test' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_test,
        CAST(SUM(SUM(CASE WHEN sport = 'football' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_football,
        CAST(SUM(SUM(CASE WHEN sport = 'kabaddi' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_kabaddi,
        CAST(SUM(SUM(CASE WHEN start_hour BETWEEN 0 AND 11 THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_morning,
        CAST(SUM(SUM(CASE WHEN start_hour BETWEEN 12 AND 16 THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_afternoon,
        CAST(SUM(SUM(CASE WHEN start_hour BETWEEN 17 AND 20 THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_evening,
        CAST(SUM(SUM(CASE WHEN start_hour BETWEEN 21 AND 23 THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_night,
        CAST(SUM(SUM(CASE WHEN tournament = 'league' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_league,
        CAST(SUM(SUM(CASE WHEN tournament = 'womens' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_womens,
        CAST(SUM(SUM(CASE WHEN tournament = 'world_cup' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_world_cup,
        CAST(SUM(SUM(CASE WHEN tournament = 'tour' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_tour,
        CAST(SUM(SUM(CASE WHEN tournament = 'overseas' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_overseas,
        CAST(SUM(SUM(CASE WHEN stage = 'opener' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_openers,
        CAST(SUM(SUM(CASE WHEN stage = 'knockout' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_knockouts,
        CAST(SUM(SUM(CASE WHEN stage = 'final' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_finals,
        CAST(SUM(SUM(cancelled)) OVER so_far AS DOUBLE) AS num_cancelled,
        CAST(SUM(SUM(CASE WHEN home = 'india' OR away = 'india' OR stage = 'final' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS num_free_to_air,
        CAST(SUM(SUM(CASE WHEN home = 'india' OR away = 'india' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS india_plays,
        CAST(SUM(SUM(CASE WHEN home = 'mumbai' OR away = 'mumbai' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS mumbai_plays,
        CAST(SUM(SUM(CASE WHEN home = 'chennai' OR away = 'chennai' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS chennai_plays,
        CAST(SUM(SUM(CASE WHEN home = 'bengaluru' OR away = 'bengaluru' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS bengaluru_plays,
        CAST(SUM(SUM(CASE WHEN home = 'kolkata' OR away = 'kolkata' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS kolkata_plays,
        CAST(SUM(SUM(CASE WHEN home = 'delhi' OR away = 'delhi' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS delhi_plays,
        CAST(SUM(SUM(CASE WHEN home = 'hyderabad' OR away = 'hyderabad' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS hyderabad_plays,
        CAST(SUM(SUM(CASE WHEN home = 'punjab' OR away = 'punjab' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS punjab_plays,
        CAST(SUM(SUM(CASE WHEN home = 'jaipur' OR away = 'jaipur' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS jaipur_plays,
        CAST(SUM(SUM(CASE WHEN home = 'lucknow' OR away = 'lucknow' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS lucknow_plays,
        CAST(SUM(SUM(CASE WHEN home = 'ahmedabad' OR away = 'ahmedabad' THEN held ELSE 0 END)) OVER so_far AS DOUBLE) AS ahmedabad_plays,
        CAST(SUM(SUM(prize_pool)) OVER so_far AS DOUBLE) AS prize_pool
    FROM changes
    GROUP BY day, known_on
    WINDOW so_far AS (PARTITION BY day ORDER BY known_on)
)
SELECT *
FROM revisions
WHERE known_on BETWEEN :first_day AND :last_day
