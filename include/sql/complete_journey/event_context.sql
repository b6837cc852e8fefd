-- What was known of each day, from when on: campaigns and weekly mailers, as announced.
--
-- The data has no announcement dates: the recipe's lead times stand in for them, and nothing is
-- known before it has landed. A day gets a row for each date on which something new about it
-- became known, and that row holds all that was known by then.
WITH digits AS (
    SELECT column_of_digits.n
    FROM (VALUES (0), (1), (2), (3), (4), (5), (6), (7), (8), (9)) AS column_of_digits (n)
),
offsets AS (
    SELECT hundreds.n * 100 + tens.n * 10 + ones.n AS n
    FROM digits AS hundreds
    CROSS JOIN digits AS tens
    CROSS JOIN digits AS ones
),
campaigns_by_day AS (
    SELECT
        c.start_date + o.n AS day,
        GREATEST(
            c.start_date - CAST(:campaign_lead_days AS INT),
            c.landed_on
        ) AS known_on,
        CASE WHEN c.campaign_type = 'Type A' THEN 1 ELSE 0 END AS type_a,
        CASE WHEN c.campaign_type = 'Type B' THEN 1 ELSE 0 END AS type_b,
        CASE WHEN c.campaign_type = 'Type C' THEN 1 ELSE 0 END AS type_c,
        CASE WHEN o.n = 0 THEN 1 ELSE 0 END AS starting
    FROM campaign_descriptions AS c
    INNER JOIN offsets AS o ON c.start_date + o.n <= c.end_date
),
mailers AS (
    -- A mailer's location in the paper: D, F, H, L and Z are on a front, back or wrap page;
    -- A, C, J, P and X are inside. Twenty million placements become one row a week.
    SELECT
        week,
        landed_on,
        SUM(CASE WHEN mailer_location IN ('D', 'F', 'H', 'L', 'Z') THEN 1 ELSE 0 END) AS front,
        SUM(CASE WHEN mailer_location IN ('A', 'C', 'J', 'P', 'X') THEN 1 ELSE 0 END) AS inside,
        SUM(CASE WHEN display_location <> '0' THEN 1 ELSE 0 END) AS displays
    FROM promotions
    -- A mailer lands days before its week, never four weeks: older ones need not be read again.
    WHERE landed_on >= CAST(:first_day AS DATE) - 28
    GROUP BY week, landed_on
),
mailers_by_day AS (
    SELECT
        CAST(:week_1 AS DATE) + CAST(7 * (m.week - 1) + o.n AS INT) AS day,
        GREATEST(
            CAST(:week_1 AS DATE) + CAST(7 * (m.week - 1) - :mailer_lead_days AS INT),
            m.landed_on
        ) AS known_on,
        m.front,
        m.inside,
        m.displays
    FROM mailers AS m
    INNER JOIN offsets AS o ON o.n < 7
),
news AS (
    SELECT
        day,
        known_on,
        SUM(type_a) AS type_a,
        SUM(type_b) AS type_b,
        SUM(type_c) AS type_c,
        SUM(starting) AS starting,
        SUM(front) AS front,
        SUM(inside) AS inside,
        SUM(displays) AS displays
    FROM (
        SELECT
            day,
            known_on,
            type_a,
            type_b,
            type_c,
            starting,
            0 AS front,
            0 AS inside,
            0 AS displays
        FROM campaigns_by_day
        UNION ALL
        SELECT day, known_on, 0, 0, 0, 0, front, inside, displays
        FROM mailers_by_day
    ) AS facts
    GROUP BY day, known_on
),
revisions AS (
    SELECT
        day,
        known_on,
        SUM(type_a) OVER so_far AS type_a,
        SUM(type_b) OVER so_far AS type_b,
        SUM(type_c) OVER so_far AS type_c,
        SUM(starting) OVER so_far AS starting,
        SUM(front) OVER so_far AS front,
        SUM(inside) OVER so_far AS inside,
        SUM(displays) OVER so_far AS displays
    FROM news
    WINDOW so_far AS (PARTITION BY day ORDER BY known_on)
)
SELECT
    day,
    known_on,
    CAST(type_a AS DOUBLE) AS num_type_a_campaigns,
    CAST(type_b AS DOUBLE) AS num_type_b_campaigns,
    CAST(type_c AS DOUBLE) AS num_type_c_campaigns,
    CAST(starting AS DOUBLE) AS num_starting_campaigns,
    LN(1 + CAST(front AS DOUBLE)) AS mailer_front_page,
    LN(1 + CAST(inside AS DOUBLE)) AS mailer_inside,
    LN(1 + CAST(displays AS DOUBLE)) AS store_displays
FROM revisions
WHERE known_on BETWEEN :first_day AND :last_day
